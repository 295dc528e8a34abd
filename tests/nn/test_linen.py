"""The Linen modules compute what the core computes."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec

import gru_jax
import gru_jax.nn
from gru_jax.nn import linen
from tests.scanned_rnn import ScannedRNN

BATCH, TIME, INPUT, HIDDEN = 3, 6, 4, 5


def inputs():
    return jax.random.normal(jax.random.key(7), (BATCH, TIME, INPUT))


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-6, atol=1e-6)


def noisy(variables):
    """Zero biases would hide a bias that is forgotten or in the wrong place."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return tree.unflatten(
        [
            leaf + 0.3 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
    )


@pytest.mark.parametrize("reset", ["after", "before"])
def test_cell_drops_into_linen_rnn(reset):
    module = nn.RNN(linen.GRUCell(HIDDEN, reset=reset), return_carry=True)
    xs = inputs()
    variables = noisy(module.init(jax.random.key(0), xs))
    params = gru_jax.GRUParams(**variables["params"]["cell"], reset=reset)
    h, ys = gru_jax.unroll(params, xs.swapaxes(0, 1))
    assert_close(module.apply(variables, xs), (h, ys.swapaxes(0, 1)))


def test_cell_computes_what_flax_gru_cell_computes():
    flax_rnn = nn.RNN(nn.GRUCell(HIDDEN))
    xs = inputs()
    variables = noisy(flax_rnn.init(jax.random.key(0), xs))
    dense = variables["params"]["cell"]
    params = {
        "w_x": jnp.concatenate([dense[f"i{gate}"]["kernel"] for gate in "rzn"], axis=-1),
        "w_h": jnp.concatenate([dense[f"h{gate}"]["kernel"] for gate in "rzn"], axis=-1),
        "b": jnp.concatenate([dense[f"i{gate}"]["bias"] for gate in "rzn"]),
        "b_hn": dense["hn"]["bias"],
    }
    got = nn.RNN(linen.GRUCell(HIDDEN)).apply({"params": {"cell": params}}, xs)
    assert_close(got, flax_rnn.apply(variables, xs))


@pytest.mark.parametrize(
    ("num_layers", "bidirectional"),
    [
        (1, False),
        (2, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(2, False, marks=pytest.mark.slow),
    ],
)
def test_module_equals_the_nnx_module(num_layers, bidirectional):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "learned_h0": True}
    module = linen.GRU(HIDDEN, return_carry=True, **options)
    xs = inputs()
    lengths = jnp.array([4, 0, 6])
    mask = jax.random.bernoulli(jax.random.key(1), 0.7, (BATCH, TIME))
    variables = noisy(module.init(jax.random.key(0), xs))

    other = gru_jax.nn.GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0), return_carry=True, **options)
    for layer, cells in enumerate(other.layers):
        for cell, direction in zip(cells, ("forward", "backward"), strict=False):
            for name, value in variables["params"][f"layer_{layer}_{direction}"].items():
                getattr(cell, name)[...] = value
    got = module.apply(variables, xs, seq_lengths=lengths, mask=mask)
    assert_close(got, other(xs, seq_lengths=lengths, mask=mask))


def test_parameters_have_keys_of_their_own():
    variables = linen.GRU(HIDDEN, num_layers=2, bias_init="torch").init(jax.random.key(0), inputs())
    leaves = [np.asarray(leaf).ravel()[:5] for leaf in jax.tree.leaves(variables)]
    assert len({leaf.tobytes() for leaf in leaves}) == len(leaves)


def test_dropout_draws_from_its_stream():
    module = linen.GRU(HIDDEN, num_layers=2, dropout=0.5)
    xs = inputs()
    variables = module.init(jax.random.key(0), xs)

    def run(seed):
        return module.apply(
            variables, xs, deterministic=False, rngs={"dropout": jax.random.key(seed)}
        )

    chex.assert_trees_all_equal(run(1), run(1))
    assert np.any(run(1) != run(2))
    assert np.any(run(1) != module.apply(variables, xs))


def test_annotations_and_dtypes():
    module = linen.GRU(
        HIDDEN,
        param_dtype=jnp.bfloat16,
        dtype=jnp.bfloat16,
        kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")),
    )
    variables = module.init(jax.random.key(0), inputs())
    specs = nn.get_partition_spec(variables)["params"]["layer_0_forward"]
    assert specs["w_x"] == PartitionSpec(None, "model")
    assert module.apply(nn.meta.unbox(variables), inputs()).dtype == jnp.bfloat16
    assert module.apply(variables, inputs()).dtype == jnp.bfloat16


def test_learned_initial_state_is_rejected_where_it_would_be_ignored():
    init_learned = functools.partial(gru_jax.init, learned_h0=True)
    for cell in (
        linen.GRUCell(HIDDEN, learned_h0=True),
        linen.RecurrentCell(HIDDEN, init_cell=init_learned),
        linen.LSTMCell(HIDDEN, cell_options={"learned_h0": True}),
    ):
        with pytest.raises(ValueError, match="a learned initial state is not supported"):
            nn.RNN(cell).init(jax.random.key(0), inputs())


def test_an_initial_state_that_is_constant_and_not_zero():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class FromOnes(gru_jax.GRUParams):
        def initial_state(self, batch_shape=()):
            return jnp.ones((*batch_shape, HIDDEN))

    def init_cell(*arguments, **options):
        return FromOnes(**vars(gru_jax.init(*arguments, **options)))

    module = nn.RNN(linen.RecurrentCell(HIDDEN, init_cell=init_cell))
    variables = module.init(jax.random.key(0), inputs())
    layers = linen.RecurrentLayers(HIDDEN, init_cell=init_cell)
    of_layers = {"params": {"layer_0_forward": variables["params"]["cell"]}}
    assert_close(module.apply(variables, inputs()), layers.apply(of_layers, inputs()))


def test_the_carry_of_a_scanned_rnn_has_its_features():
    carry, x = jnp.zeros((2, HIDDEN)), (jnp.zeros((3, 2, INPUT)), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=f"carry has {HIDDEN} features, expected {HIDDEN + 1}"):
        linen.ScannedRNN(HIDDEN + 1).init(jax.random.key(0), carry, x)


@pytest.mark.parametrize(
    ("carry", "x", "error", "words"),
    [
        (jnp.zeros((2, HIDDEN)), jnp.zeros((3, 2, INPUT)), TypeError, r"tuple \(ins, resets\)"),
        (None, (jnp.zeros((3, 2, INPUT)), jnp.zeros((3, 2))), TypeError, "carry .*NoneType"),
        (
            jnp.zeros((4, HIDDEN)),
            (jnp.zeros((3, 2, INPUT)), jnp.zeros((3, 2))),
            ValueError,
            r"carry has shape \(4, \d\), expected \(2, \d\)",
        ),
    ],
)
def test_wrong_arguments_of_a_scanned_rnn_are_named(carry, x, error, words):
    with pytest.raises(error, match=words):
        linen.ScannedRNN(HIDDEN).init(jax.random.key(0), carry, x)


def test_a_scanned_rnn_reads_integers_as_the_copies_do():
    carry, resets = jnp.zeros((2, HIDDEN)), jnp.zeros((3, 2), bool)
    ins = jnp.arange(3 * 2 * INPUT, dtype=jnp.int8).reshape(3, 2, INPUT)
    ours, theirs = linen.ScannedRNN(HIDDEN), ScannedRNN()
    with jax.numpy_dtype_promotion("standard"):
        variables = theirs.init(jax.random.key(0), carry, (ins, resets))
        outputs = [module.apply(variables, carry, (ins, resets)) for module in (ours, theirs)]
    chex.assert_trees_all_close(*outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"reset": "sideways"}, "reset"),
        ({"merge": "median"}, "merge"),
        ({"implementation": "cuda"}, "implementation"),
        ({"checkpoint": "sometimes"}, "checkpoint"),
        ({"bidirectional": "yes"}, "bidirectional"),
        ({"dtype": "int32"}, "dtype"),
    ],
)
def test_wrong_options_are_named_at_construction(arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        linen.GRU(HIDDEN, **arguments)


@pytest.mark.parametrize(
    ("name", "hint"), [("num_layer", "it takes features.*num_layers"), ("keep_order", "aligned")]
)
def test_unknown_arguments_name_the_class_and_what_it_takes(name, hint):
    with pytest.raises(TypeError, match=rf"GRU has no argument '{name}': .*{hint}"):
        linen.GRU(HIDDEN, **{name: True})
    with pytest.raises(TypeError, match=f"GRUCell has no argument '{name}'"):
        linen.GRUCell(HIDDEN, **{name: True})
    with pytest.raises(TypeError, match=f"RecurrentCell has no argument '{name}'"):
        linen.RecurrentCell(HIDDEN, cell_options={name: True})
    with pytest.raises(TypeError, match=f"call of GRU has no argument '{name}'"):
        linen.GRU(HIDDEN).init(jax.random.key(0), inputs(), **{name: True})


def test_integers_are_promoted_as_flax_promotes_them():
    xs = jnp.asarray(inputs() > 0, "int32")
    with jax.numpy_dtype_promotion("standard"):
        flax = nn.RNN(nn.GRUCell(HIDDEN)).init_with_output(jax.random.key(0), xs)[0].dtype
    for dtype, expected in ((None, flax), (jnp.bfloat16, jnp.bfloat16)):
        module = linen.GRU(HIDDEN, dtype=dtype)
        ys, variables = module.init_with_output(jax.random.key(0), xs)
        assert ys.dtype == expected
        chex.assert_trees_all_equal(ys, module.apply(variables, xs.astype(expected)))


def test_dropout_without_effect_warns_and_needs_no_randomness():
    with pytest.warns(UserWarning, match="dropout=0.5 has no effect"):
        module = linen.GRU(HIDDEN, dropout=0.5)
    variables = module.init(jax.random.key(0), inputs())
    module.apply(variables, inputs(), deterministic=False)


@pytest.mark.parametrize(("name", "init"), [("LSTM", gru_jax.init_lstm), ("RNN", gru_jax.init_rnn)])
def test_any_cell_has_modules(name, init):
    """Those of a named class and of its initialiser have the same parameters."""
    layers = getattr(linen, name)(HIDDEN, num_layers=2, return_carry=True)
    variables = noisy(layers.init(jax.random.key(0), inputs()))
    generic = linen.RecurrentLayers(HIDDEN, init_cell=init, num_layers=2, return_carry=True)
    carry, ys = generic.apply(variables, inputs())
    chex.assert_trees_all_equal((carry, ys), layers.apply(variables, inputs()))
    assert all(leaf.shape == (BATCH, HIDDEN) for leaf in jax.tree.leaves(carry))

    cell = getattr(linen, f"{name}Cell")(HIDDEN, cell_options={"bias": False})
    variables = nn.RNN(cell).init(jax.random.key(0), inputs())
    assert set(variables["params"]["cell"]) == {"w_x", "w_h"}
    assert nn.RNN(cell).apply(variables, inputs()).shape == (BATCH, TIME, HIDDEN)


def test_chrono_bias_is_that_of_the_initialiser():
    modules = [
        (linen.GRUCell(HIDDEN, chrono_bias=50.0), gru_jax.init),
        (linen.LSTMCell(HIDDEN, cell_options={"chrono_bias": 50.0}), gru_jax.init_lstm),
    ]
    for cell, init in modules:
        variables = nn.RNN(cell).init(jax.random.key(0), inputs())
        expected = init(jax.random.key(0), INPUT, HIDDEN, chrono_bias=50.0).b
        np.testing.assert_array_equal(variables["params"]["cell"]["b"], expected)


def test_a_scanned_rnn_loads_checkpoints_of_the_class_that_it_replaces():
    envs, steps = 4, 9

    def agent(scanned_rnn):
        class Agent(nn.Module):
            @nn.compact
            def __call__(self, carry, x):
                carry, ys = scanned_rnn()(carry, x)
                return carry, nn.Dense(2)(ys)

        return Agent()

    theirs, ours = agent(ScannedRNN), agent(linen.ScannedRNN)
    keys = jax.random.split(jax.random.key(5), 3)
    xs = jax.random.normal(keys[0], (steps, envs, INPUT))
    resets = jax.random.bernoulli(keys[1], 0.3, (steps, envs)).astype(jnp.float32)
    carry = jax.random.normal(keys[2], (envs, HIDDEN))
    variables = theirs.init(jax.random.key(0), carry, (xs[:1], resets[:1]))
    chex.assert_trees_all_equal(
        ours.init(jax.random.key(0), carry, (xs[:1], resets[:1])), variables
    )

    def loss(variables, carry, xs, model):
        carry, ys = model.apply(variables, carry, (xs, resets))
        return jnp.sum(jnp.sin(ys)) + jnp.sum(carry**2), (carry, ys)

    gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
    trained = noisy(variables)
    results = [gradient(trained, carry, xs, model) for model in (theirs, ours)]
    chex.assert_trees_all_close(*results, atol=1e-6, rtol=1e-5)
    zeros = linen.ScannedRNN.initialize_carry(envs, HIDDEN)
    chex.assert_trees_all_equal(zeros, ScannedRNN.initialize_carry(envs, HIDDEN))
