"""A stack runs its cells one after the other, in one direction or both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.assert_trees import assert_close, assert_equal
from tests.cells.cases import CASES, GRU_AFTER, LSTM, Case
from tests.slow import slow, slow_but

TIME, BATCH, INPUT, HIDDEN = 5, 3, 2, 4
KEY = jax.random.key(0)
LENGTHS = np.array([5, 3, 0])

unroll_stack = jax.jit(
    gru_jax.unroll_stack, static_argnames=("reverse", "dropout", "every_layer", "checkpoint")
)
unroll = jax.jit(gru_jax.unroll, static_argnames="reverse")

# The cells differ in their states alone, of which there are one or two.
every_case = pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], CASES), ids=str)


def make_stack(case: Case = GRU_AFTER, seed: int = 0, **options) -> gru_jax.Stack:
    """Random in every leaf, biases and learned initial states too."""
    options = {"num_layers": 2, "learned_h0": True, **options}
    stack = gru_jax.init_stack(KEY, INPUT, HIDDEN, init_cell=case.init, **case.static, **options)
    return randomize(stack, seed)


def randomize(tree, seed: int):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.uniform(-1, 1, leaf.shape), leaf.dtype), tree
    )


@pytest.fixture
def xs():
    return jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT))


def controls() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {
        "lengths": LENGTHS,
        "mask": random.uniform(size=(TIME, BATCH)) < 0.7,
        "starts": random.uniform(size=(TIME, BATCH)) < 0.3,
    }


@every_case
def test_layers_follow_each_other(case, xs):
    stack = make_stack(case, num_layers=3)
    states, ys = unroll_stack(stack, xs, **controls())
    expected = xs
    for (cell,), (state,) in zip(stack.layers, states, strict=True):
        last, expected = unroll(cell, expected, **controls())
        assert_close(state, last, "float32")
    assert_close(ys, expected, "float32")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@every_case
def test_directions_are_concatenated(case, reverse, xs):
    stack = make_stack(case, bidirectional=True)
    states, ys = unroll_stack(stack, xs, reverse=reverse, **controls())
    expected = xs
    for layer, layer_states in zip(stack.layers, states, strict=True):
        results = [
            unroll(cell, expected, reverse=backward, **controls())
            for cell, backward in zip(layer, (reverse, not reverse), strict=True)
        ]
        assert_close(layer_states, tuple(last for last, _ in results), "float32")
        expected = jnp.concatenate([outputs for _, outputs in results], axis=-1)
    assert_close(ys, expected, "float32")


@pytest.mark.parametrize(
    ("merge", "join"),
    [
        ("concat", lambda a, b: jnp.concatenate([a, b], axis=-1)),
        ("sum", jnp.add),
        ("mean", lambda a, b: (a + b) / 2),
        ("product", jnp.multiply),
    ],
)
def test_merge(merge, join, xs):
    stack = make_stack(bidirectional=True, merge=merge)
    _, (first, second) = unroll_stack(stack, xs, lengths=LENGTHS, every_layer=True)
    inputs = xs
    for layer, merged in zip(stack.layers, (first, second), strict=True):
        _, forward = unroll(layer[0], inputs, lengths=LENGTHS)
        _, backward = unroll(layer[1], inputs, lengths=LENGTHS, reverse=True)
        assert_close(merged, join(forward, backward), "float32")
        inputs = merged


@pytest.mark.parametrize("bidirectional", [False, slow(True)])
def test_residual_adds_inputs_from_the_second_layer_on(xs, bidirectional):
    plain = make_stack(num_layers=3, bidirectional=bidirectional)
    residual = dataclasses.replace(plain, residual=True)
    _, outputs = unroll_stack(residual, xs, every_layer=True)
    _, (first, *_) = unroll_stack(plain, xs, every_layer=True)
    assert_close(outputs[0], first, "float32")
    for layer in (1, 2):
        alone = gru_jax.Stack(plain.layers[layer : layer + 1])
        _, own = unroll_stack(alone, outputs[layer - 1])
        assert_close(outputs[layer], own + outputs[layer - 1], "float32")


def test_init_with_residual():
    assert gru_jax.init_stack(KEY, INPUT, HIDDEN, num_layers=2, residual=True).residual
    assert not gru_jax.init_stack(KEY, INPUT, HIDDEN, num_layers=2).residual


@pytest.mark.parametrize(
    "options", [{}, slow({"bidirectional": True}), {"residual": True}], ids=str
)
def test_every_layer_ends_with_the_last(xs, options):
    stack = make_stack(num_layers=3, **options)
    states, ys = unroll_stack(stack, xs)
    every_states, outputs = unroll_stack(stack, xs, every_layer=True)
    assert isinstance(outputs, tuple)
    assert len(outputs) == 3
    assert_close((every_states, outputs[-1]), (states, ys), "float32")


@pytest.mark.parametrize("bidirectional", [False, True])
@every_case
def test_default_states(case, bidirectional, xs):
    stack = make_stack(case, bidirectional=bidirectional)
    initial = gru_jax.initial_state(stack, (BATCH,))
    assert [len(layer) for layer in initial] == [1 + bidirectional] * 2
    assert any(leaf.any() for leaf in jax.tree.leaves(initial))
    assert_close(unroll_stack(stack, xs), unroll_stack(stack, xs, initial), "float32")


@every_case
def test_streaming(case, xs):
    stack = make_stack(case)
    state = gru_jax.initial_state(stack, (BATCH,))
    outputs = []
    for window in gru_jax.tbptt_windows(xs, 2, **controls()):
        state, ys = unroll_stack(stack, states=state, **window)
        outputs.append(ys)
    whole = unroll_stack(stack, xs, **controls())
    assert_close((state, jnp.concatenate(outputs)), whole, "float32")


@pytest.mark.parametrize(
    "options",
    [{}, slow({"bidirectional": True}), {"bidirectional": True, "merge": "sum", "residual": True}],
    ids=str,
)
def test_masked_inputs_change_nothing(xs, options):
    """A sequence of length 0 among them, and every gradient."""
    stack, masks = make_stack(num_layers=3, **options), controls()
    read = masks["mask"] & (np.arange(TIME)[:, None] < LENGTHS[None])

    @jax.jit
    def evaluate(stack, xs):
        def loss(stack, xs):
            states, ys = unroll_stack(stack, xs, **masks)
            total = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves((states, ys)))
            return total, (states, ys)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(stack, xs)

    clean, spoilt = (jnp.where(read[..., None], xs, filler) for filler in (0.0, jnp.nan))
    (_, outcome), gradients = evaluate(stack, clean)
    (_, spoilt_outcome), spoilt_gradients = evaluate(stack, spoilt)
    assert_equal((spoilt_outcome, spoilt_gradients), (outcome, gradients))
    assert not outcome[1][~read].any()


@pytest.mark.parametrize(
    ("checkpoint", "bidirectional"),
    [("step", False), slow("step", True), slow("chunk", True), slow(2, True)],
)
@jax.enable_x64(True)
def test_checkpoint(checkpoint, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional, "dtype": jnp.float64}
    stack = randomize(gru_jax.init_stack(KEY, INPUT, HIDDEN, **options), seed=0)
    xs = jax.random.normal(KEY, (TIME, BATCH, INPUT), jnp.float64)

    def loss(stack, checkpoint):
        return jnp.square(unroll_stack(stack, xs, checkpoint=checkpoint)[1]).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    assert_close(gradient(stack, checkpoint), gradient(stack, None), "float64")


def test_low_precision(xs):
    stack = gru_jax.init_stack(
        KEY, INPUT, HIDDEN, num_layers=2, bidirectional=True, dtype=jnp.bfloat16
    )
    states, ys = unroll_stack(stack, xs.astype(jnp.bfloat16), dropout=0.5, key=KEY)
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {jnp.dtype("float32")}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PassThrough(gru_jax.Cell):
    """Outputs its inputs, so that dropout between layers shows."""

    scale: jax.Array

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, INPUT))

    def project(self, xs):
        return xs

    def recur(self, state, projected):
        del state
        return projected * self.scale


def pass_through(num_layers: int) -> gru_jax.Stack:
    return gru_jax.Stack(((PassThrough(jnp.ones(())),),) * num_layers)


def test_dropout_between_layers_alone(xs):
    _, (first, second, third) = unroll_stack(
        pass_through(3), xs, dropout=0.5, key=KEY, every_layer=True
    )
    assert_equal(first, xs)
    assert set(np.unique(second / xs)) == {0, 2}
    assert set(np.unique(third / xs)) == {0, 4}
    assert ((third == 0) & (second != 0)).any()


def test_dropout_without_effect_warns_and_needs_no_key(xs):
    with pytest.warns(UserWarning, match="dropout=0.9 has no effect"):
        _, ys = gru_jax.unroll_stack(pass_through(1), xs, dropout=0.9)
    assert_equal(ys, xs)


@pytest.mark.parametrize("as_type", [list, tuple])
def test_states_may_be_lists_or_tuples(as_type, xs):
    stack = make_stack(bidirectional=True)
    states = randomize(gru_jax.initial_state(stack, (BATCH,)), seed=1)
    given = as_type(as_type(layer) for layer in states)
    assert_equal(gru_jax.unroll_stack(stack, xs, given), unroll_stack(stack, xs, states))


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        ({"h": 0}, TypeError, r"states must be a tuple or list .* each layer, 2 in all; got dict"),
        ([0], ValueError, r"states must be .* each layer, 2 in all; got 1"),
        ([0, 0], TypeError, r"states\[0\] must be .* each direction, 1 in all; got int"),
        ([[0, 0], [0]], ValueError, r"states\[0\] must be .* each direction, 1 in all; got 2"),
    ],
)
def test_wrong_states_are_described_in_words(states, error, message, xs):
    with pytest.raises(error, match=message):
        gru_jax.unroll_stack(make_stack(), xs, states)


def test_a_stack_compares_by_identity():
    stack = make_stack()
    assert stack == stack
    same = dataclasses.replace(stack)
    assert stack != same
    assert len({stack, same, stack}) == 2


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate):
    """Within five standard deviations of a mean over 20000 samples."""
    xs = jnp.ones((2500, 4, INPUT))
    _, ys = unroll_stack(pass_through(2), xs, dropout=rate, key=KEY)
    deviation = np.sqrt(rate * (1 - rate) / ys.size)
    assert (ys == 0).mean() == pytest.approx(rate, abs=5 * deviation)
    assert ys.mean() == pytest.approx(1, abs=5 * deviation / (1 - rate))


def test_dropout_is_decided_by_the_key(xs):
    stack = make_stack()

    def outputs(seed):
        return unroll_stack(stack, xs, dropout=0.5, key=jax.random.key(seed))[1]

    assert_equal(outputs(0), outputs(0))
    assert (outputs(0) != outputs(1)).any()


def test_no_dropout_at_rate_zero(xs):
    stack = make_stack()
    plain = unroll_stack(stack, xs)
    assert_equal(unroll_stack(stack, xs, dropout=0.0, key=KEY), plain)
    assert_equal(unroll_stack(stack, xs, dropout=0.0), plain)


def test_stack_is_a_pytree_of_arrays():
    stack = make_stack(LSTM, num_layers=3, bidirectional=True, merge="sum")
    leaves, structure = jax.tree.flatten(stack)
    assert len(leaves) == 3 * 2 * 5
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert_equal(jax.tree.unflatten(structure, leaves), stack)
    other = dataclasses.replace(stack, merge="mean")
    assert jax.tree.structure(other) != structure
    assert jax.tree.structure(dataclasses.replace(stack, residual=True)) != structure


def test_cells_are_initialised_from_different_keys():
    stack = gru_jax.init_stack(KEY, HIDDEN, HIDDEN, num_layers=2, bidirectional=True, merge="sum")
    kernels = [cell.w_h for layer in stack.layers for cell in layer]
    for i, kernel in enumerate(kernels):
        assert not any((kernel == other).all() for other in kernels[:i])


@pytest.mark.parametrize(
    ("bidirectional", "merge", "second"),
    [(False, "concat", HIDDEN), (True, "concat", 2 * HIDDEN), (True, "sum", HIDDEN)],
)
def test_input_sizes(bidirectional, merge, second):
    stack = make_stack(num_layers=3, bidirectional=bidirectional, merge=merge)
    sizes = [{cell.w_x.shape[0] for cell in layer} for layer in stack.layers]
    assert sizes == [{INPUT}, {second}, {second}]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_layers", 0, ValueError),
        ("num_layers", 1.5, TypeError),
        ("merge", "max", ValueError),
        ("hidden_size", 0, ValueError),
        ("hidden_size", "4", TypeError),
        ("input_size", -1, ValueError),
        ("key", 0, TypeError),
        ("reset", "never", ValueError),
    ],
)
def test_init_names_the_wrong_argument(name, value, error):
    arguments = {"key": KEY, "input_size": INPUT, "hidden_size": HIDDEN, name: value}
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.init_stack(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("stack", "stack", TypeError),
        ("xs", jnp.zeros((TIME, BATCH, INPUT + 1)), ValueError),
        ("xs", jnp.zeros((TIME, BATCH, INPUT), jnp.int32), TypeError),
        ("lengths", np.array([5, 6, 0]), ValueError),
        ("mask", np.ones((TIME, BATCH), complex), TypeError),
        ("starts", np.ones((TIME,), bool), ValueError),
        ("states", ((jnp.zeros((BATCH, HIDDEN)),),), ValueError),
        ("states", ((jnp.zeros((BATCH, HIDDEN)),), (jnp.zeros((BATCH, 1)),)), ValueError),
        ("states", 3, TypeError),
        ("dropout", 1.0, ValueError),
        ("dropout", -0.1, ValueError),
        ("dropout", "half", TypeError),
        ("key", 7, TypeError),
        ("implementation", "cuda", ValueError),
        ("checkpoint", "sometimes", ValueError),
    ],
)
def test_unroll_names_the_wrong_argument(xs, name, value, error):
    arguments = {"stack": make_stack(), "xs": xs, "dropout": 0.5, "key": KEY, name: value}
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.unroll_stack(**arguments)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([[HIDDEN], [1]], {"residual": True}, r"layers\[1\] reads 4 features and returns 1"),
        ([[1], [HIDDEN]], {"residual": True}, r"layers\[1\] reads 1 features and returns 4"),
        ([[HIDDEN, 1]], {"merge": "sum"}, r"layers\[0\] return 4 and 1 features"),
        ([[1, HIDDEN]], {"merge": "product"}, r"layers\[0\] return 1 and 4 features"),
        ([], {}, "at least one layer"),
    ],
)
def test_outputs_that_are_added_or_multiplied_are_not_broadcast(xs, sizes, options, message):
    layers, width = [], INPUT
    for layer in sizes:
        layers.append(tuple(gru_jax.init(KEY, width, size) for size in layer))
        width = layer[0]
    with pytest.raises(ValueError, match=message):
        gru_jax.unroll_stack(gru_jax.Stack(tuple(layers), **options), xs)


def test_dropout_needs_a_key(xs):
    with pytest.raises(ValueError, match=r"\bkey\b"):
        gru_jax.unroll_stack(make_stack(), xs, dropout=0.5)
