"""What the page on reinforcement learning puts in place of a `ScannedRNN` computes the same."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import gru_jax
from gru_jax.interop import linen
from tests.docs.pages import DOCS, blocks_of
from tests.scanned_rnn import ScannedRNN

pytestmark = pytest.mark.slow


def assert_close(actual, expected):
    """Each array differs by at most 1e-6 of its largest element, or of 1."""
    chex.assert_trees_all_equal_structs(actual, expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, jnp.abs(theirs).max())
        chex.assert_trees_all_close(ours, theirs, rtol=0, atol=1e-6 * scale)


@pytest.fixture(scope="module")
def page():
    """The names that the page's blocks define."""
    path = DOCS / "guide" / "reinforcement-learning.md"
    namespace = {}
    for block in blocks_of(path):
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, path.name, "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def inputs(page):
    carry = jax.random.normal(jax.random.key(9), (page["ENVS"], page["HIDDEN"]))
    return carry, page["observations"], page["starts"].astype(jnp.float32)


def noisy(variables):
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in pairs])


@pytest.fixture(scope="module")
def trained(inputs):
    carry, *x = inputs
    return noisy(ScannedRNN().init(jax.random.key(0), carry, x))


def results(apply, params, carry, observations, resets):
    """State, outputs, and the gradient of a function of both."""

    def loss(params, carry, observations):
        state, ys = apply(params, carry, observations, resets)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(state**2), (state, ys)

    return jax.grad(loss, (0, 1, 2), has_aux=True)(params, carry, observations)


@pytest.fixture(scope="module")
def expected(trained, inputs):
    def apply(params, carry, *x):
        return ScannedRNN().apply(params, carry, x)

    return results(apply, trained, *inputs)


def test_networks_of_purejaxrl_jaxmarl_and_craftax_load_their_checkpoints(page, inputs):
    carry, observations, starts = inputs
    network = page["ActorCriticRNN"](num_actions=2)
    ours = network.init(jax.random.key(0), carry, (observations, starts))

    def apply(params, carry, *x):
        hidden, logits, values = network.apply(params, carry, x)
        return hidden, jnp.concatenate([logits, values[..., None]], axis=-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(page, "ScannedRNN", ScannedRNN)
        theirs = network.init(jax.random.key(0), carry, (observations, starts))
        weights = noisy(theirs)
        wanted = results(apply, weights, *inputs)
    chex.assert_trees_all_equal(ours, theirs)
    assert_close(results(apply, weights, *inputs), wanted)


def test_the_class_for_stoix_has_the_parameters_and_values_of_theirs(
    page, inputs, trained, expected
):
    module = page["stoix_rnn"]

    def apply(params, carry, *x):
        return module.apply(params, carry, x)

    assert_close(results(apply, trained, *inputs), expected)
    assert module.initialize_carry(3).shape == (3, page["HIDDEN"])


@pytest.mark.parametrize("agent", [0, 1])
def test_the_class_for_mava_takes_environments_and_agents(page, inputs, trained, expected, agent):
    def apply(params, carry, observations, resets):
        """The other agent has zeros, and does not count."""
        others = jnp.zeros_like(carry), jnp.zeros_like(observations), jnp.ones_like(resets)
        carry, observations, resets = (
            jnp.stack([array, other] if agent == 0 else [other, array], axis)
            for array, other, axis in zip(
                (carry, observations, resets), others, (1, 2, 2), strict=True
            )
        )
        state, ys = page["mava_rnn"].apply(params, carry, (observations, resets))
        return state[:, agent], ys[:, :, agent]

    assert_close(results(apply, trained, *inputs), expected)


def test_the_module_for_memorax_has_the_values_of_its_cell(page, inputs, trained, expected):
    cell = linen.load(trained["params"]["GRUCell_0"])
    fields = {name: getattr(cell, name) for name in ("w_x", "w_h", "b", "b_hn")}
    variables = {"params": {"GRU_0": {"layer_0_forward": fields}}}
    chex.assert_trees_all_equal_shapes(variables, page["MemoraxGRU"](page["HIDDEN"]).init(
        jax.random.key(0), *page["batch_major"]
    ))  # fmt: skip

    def apply(variables, carry, observations, resets):
        module = page["MemoraxGRU"](page["HIDDEN"])
        batch_major = observations.swapaxes(0, 1), resets.T
        carry, ys = module.apply(variables, *batch_major, initial_carry=carry)
        return carry, ys.swapaxes(0, 1)

    (_, *gradients), values = results(apply, variables, *inputs)
    assert_close((gradients, values), (list(expected[0][1:]), expected[1]))


def test_the_module_for_nnx_ppo_steps_as_the_cell_does(page, inputs):
    carry, observations, starts = inputs
    module = page["stateful"]
    theirs = linen.dump(module.cell.params)
    wanted = results(
        lambda params, carry, *x: ScannedRNN().apply(params, carry, x),
        {"params": {"GRUCell_0": theirs}},
        *inputs,
    )
    graph, weights = nnx.split(module)

    def apply(weights, carry, observations, resets):
        steps = nnx.merge(graph, weights)
        state, outputs = carry, []
        for observation, reset in zip(observations, resets, strict=True):
            state = jnp.where(reset[:, None], steps.reset_state(state), state)
            state, output = steps(state, observation)
            outputs.append(output)
        return state, jnp.stack(outputs)

    (of_weights, *of_inputs), values = results(apply, weights, *inputs)
    of_cell = linen.dump(nnx.merge(graph, of_weights).cell.params)
    assert_close((({"params": {"GRUCell_0": of_cell}}, *of_inputs), values), wanted)
    replay = gru_jax.unroll(module.cell.params, observations, carry, starts=starts)
    assert_close(replay, values)


def test_the_q_loss_is_that_of_a_scanned_rnn_and_stops_at_the_burn_in(page, inputs):
    carry, observations, starts = inputs
    steps, envs = starts.shape
    keys = jax.random.split(jax.random.key(8), 4)
    agents = [
        {"gru": gru_jax.init(key, page["FEATURES"], page["HIDDEN"]), "head": 0.3 * head}
        for key, head in zip(keys, jax.random.normal(keys[2], (2, page["HIDDEN"], 3)), strict=False)
    ]
    actions = jax.random.randint(keys[3], (steps, envs), 0, 3)
    rewards, dones = observations[..., 0], starts > 0
    experience = (observations, actions, rewards, dones, carry, starts)

    def expected(agent, target):
        """Step by step, without a function of the page."""
        burn_in, q = page["BURN_IN"], []
        for weights in (agent, target):
            cell = {"params": {"GRUCell_0": dense_layers(weights["gru"])}}
            state, _ = ScannedRNN().apply(cell, carry, (observations[:burn_in], starts[:burn_in]))
            rest = observations[burn_in:], starts[burn_in:]
            _, ys = ScannedRNN().apply(cell, jax.lax.stop_gradient(state), rest)
            q.append(ys @ weights["head"])
        all_envs, squares = jnp.arange(envs), []
        for t in range(len(q[0]) - 1):
            at = t + burn_in
            following = q[1][t + 1, all_envs, jnp.argmax(q[0][t + 1], axis=-1)]
            wanted = rewards[at] + page["DISCOUNT"] * (1 - starts[at]) * following
            error = q[0][t, all_envs, actions[at]] - jax.lax.stop_gradient(wanted)
            squares.append(error**2)
        return jnp.mean(jnp.stack(squares))

    def dense_layers(cell):
        """Linen's parameters, as a function of ours that JAX can differentiate."""
        kernels = {"i": jnp.split(cell.w_x, 3, -1), "h": jnp.split(cell.w_h, 3, -1)}
        layers = {
            s + g: {"kernel": k} for s in "ih" for g, k in zip("rzn", kernels[s], strict=True)
        }
        for gate, bias in zip("rzn", jnp.split(cell.b, 3), strict=True):
            layers[f"i{gate}"]["bias"] = bias
        layers["hn"]["bias"] = cell.b_hn
        return layers

    found = jax.jit(jax.value_and_grad(page["q_loss"]))(*agents, *experience)
    assert_close(found, jax.jit(jax.value_and_grad(expected))(*agents))
    of_state = jax.grad(page["q_loss"], 6)(*agents, *experience)
    chex.assert_trees_all_equal(of_state, jnp.zeros_like(carry))
