"""The NNX modules compute what the core computes, under every NNX transform."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import gru_jax
from gru_jax.nn import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    RecurrentCell,
    RecurrentLayers,
    RNNCell,
)
from tests.slow import slow, slow_but

BATCH, TIME, INPUT, HIDDEN = 3, 6, 4, 5
CELLS = [GRUCell, LSTMCell, RNNCell]
MODULES = [GRU, LSTM, RNN]


def inputs(*shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(7), shape or (BATCH, TIME, INPUT), dtype)


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-6, atol=1e-6)


def randomise_biases(module):
    """Zero biases would hide a bias that is forgotten or in the wrong place."""
    params = nnx.state(module, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    nnx.update(module, tree.unflatten(noisy))
    return module


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("lengths", [slow(None), (2, 6, 0)])
def test_cell_drops_into_nnx_rnn(cell_type, lengths):
    cell = randomise_biases(cell_type(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    xs = inputs()
    # nnx.RNN returns the state after the padding for a length of 0 and garbage outputs at it.
    seq_lengths = None if lengths is None else jnp.array(lengths).clip(1)
    carry, ys = nnx.RNN(cell)(xs, return_carry=True, seq_lengths=seq_lengths)
    want_carry, want_ys = gru_jax.unroll(cell.params, xs.swapaxes(0, 1), lengths=seq_lengths)
    assert_close(carry, want_carry)
    valid = np.arange(TIME)[None] < (
        TIME if lengths is None else np.clip(lengths, 1, None)[:, None]
    )
    valid = np.broadcast_to(valid, (BATCH, TIME))
    assert_close(np.asarray(ys)[valid], np.asarray(want_ys.swapaxes(0, 1))[valid])


def test_gru_cell_computes_what_flax_gru_cell_computes_where_there_is_no_recurrent_bias():
    flax_cell = nnx.GRUCell(INPUT, HIDDEN, bias_init=nnx.initializers.normal(0.5), rngs=nnx.Rngs(0))
    cell = GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(1))
    cell.w_x[...] = flax_cell.dense_i.kernel[...]
    cell.w_h[...] = flax_cell.dense_h.kernel[...]
    cell.b[...] = flax_cell.dense_i.bias[...]
    h, x = inputs(BATCH, HIDDEN), inputs(BATCH, INPUT)
    assert_close(cell(h, x), flax_cell(h, x))
    cell.b_hn[...] = jnp.ones(HIDDEN)
    assert np.abs(cell(h, x)[0] - flax_cell(h, x)[0]).max() > 1e-2


@pytest.mark.parametrize("cell_type", CELLS)
def test_initial_carry(cell_type):
    cell = cell_type(INPUT, HIDDEN, learned_h0=True, rngs=nnx.Rngs(0))
    cell.h0[...] = jnp.arange(HIDDEN, dtype=jnp.float32)
    carry = cell.initialize_carry((2, BATCH, INPUT))
    assert_close(carry, gru_jax.initial_state(cell.params, (2, BATCH)))
    sampled = cell.initialize_carry((BATCH, INPUT), nnx.Rngs(5), nnx.initializers.normal())
    assert all(leaf.shape == (BATCH, HIDDEN) for leaf in jax.tree.leaves(sampled))
    assert all(np.std(leaf) > 0 for leaf in jax.tree.leaves(sampled))
    with pytest.raises(ValueError, match="rngs"):
        cell.initialize_carry((BATCH, INPUT), None, nnx.initializers.normal())


@pytest.mark.parametrize("module_type", MODULES)
@pytest.mark.parametrize(
    ("num_layers", "bidirectional"), [(1, False), (2, True), slow(1, True), slow(2, False)]
)
def test_module_is_the_stack(module_type, num_layers, bidirectional):
    module = randomise_biases(
        module_type(
            INPUT, HIDDEN, num_layers=num_layers, bidirectional=bidirectional, rngs=nnx.Rngs(0)
        )
    )
    xs = inputs()
    lengths = jnp.array([4, 0, 6])
    mask = jax.random.bernoulli(jax.random.key(1), 0.7, (BATCH, TIME))
    starts = jax.random.bernoulli(jax.random.key(2), 0.3, (BATCH, TIME))
    carry, ys = module(xs, seq_lengths=lengths, mask=mask, starts=starts, return_carry=True)
    states, want = gru_jax.unroll_stack(
        module.stack, xs.swapaxes(0, 1), lengths=lengths, mask=mask.T, starts=starts.T
    )
    assert_close(ys, want.swapaxes(0, 1))
    assert ys.shape == (BATCH, TIME, module.out_features)
    if not bidirectional:
        states = tuple(layer[0] for layer in states)
    assert_close(carry, states if num_layers > 1 else states[0])


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_carry_goes_back_in(num_layers, bidirectional):
    module = GRU(
        INPUT, HIDDEN, num_layers=num_layers, bidirectional=bidirectional, rngs=nnx.Rngs(0)
    )
    carry, _ = module(inputs(), return_carry=True)
    again, ys = module(inputs(BATCH, 0, INPUT), initial_carry=carry, return_carry=True)
    assert ys.shape == (BATCH, 0, module.out_features)
    chex.assert_trees_all_equal(again, carry)


def test_streaming_equals_one_pass():
    module = randomise_biases(LSTM(INPUT, HIDDEN, num_layers=2, rngs=nnx.Rngs(0)))
    xs = inputs()
    carry, ys = module(xs, return_carry=True)
    first_carry, first = module(xs[:, :2], return_carry=True)
    last_carry, rest = module(xs[:, 2:], initial_carry=first_carry, return_carry=True)
    assert_close(jnp.concatenate([first, rest], axis=1), ys)
    assert_close(last_carry, carry)


def test_layouts():
    module = GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    xs = inputs(2, BATCH, TIME, INPUT)
    ys = module(xs)
    assert_close(module(jnp.moveaxis(xs, 2, 0), time_major=True), jnp.moveaxis(ys, 2, 0))
    assert_close(module(xs[0, 0]), ys[0, 0])
    flipped = module(xs[:, :, ::-1], reverse=True)
    assert_close(flipped, ys[:, :, ::-1])
    assert_close(GRU(INPUT, HIDDEN, reverse=True, rngs=nnx.Rngs(0))(xs), module(xs, reverse=True))
    with pytest.raises(ValueError, match="inputs"):
        module(xs[0, 0, 0])


@pytest.mark.parametrize(
    "module_type",
    slow_but([GRU], MODULES),
)
def test_transforms(module_type):
    module = randomise_biases(module_type(INPUT, HIDDEN, num_layers=2, rngs=nnx.Rngs(0)))
    xs = inputs()
    assert_close(nnx.jit(lambda m, x: m(x))(module, xs), module(xs))

    def loss(module):
        return (module(xs) ** 2).sum()

    def core_loss(stack):
        return (gru_jax.unroll_stack(stack, xs.swapaxes(0, 1))[1] ** 2).sum()

    grads = nnx.grad(loss)(module)
    want = jax.grad(core_loss)(module.stack)
    assert_close(grads["layers"][0][0]["w_h"][...], want.layers[0][0].w_h, rtol=1e-5, atol=1e-5)
    assert_close(grads["layers"][1][0]["w_x"][...], want.layers[1][0].w_x, rtol=1e-5, atol=1e-5)


def test_vmap_makes_an_ensemble():
    @nnx.split_rngs(splits=4)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def create(rngs):
        return GRU(INPUT, HIDDEN, rngs=rngs)

    ensemble = create(nnx.Rngs(0))
    xs = inputs()
    ys = nnx.vmap(lambda m, x: m(x), in_axes=(0, None))(ensemble, xs)
    assert ys.shape == (4, BATCH, TIME, HIDDEN)
    graphdef, state = nnx.split(ensemble)
    third = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[2], state))
    assert_close(ys[2], third(xs))
    assert np.abs(ys[0] - ys[1]).max() > 1e-3


def test_scan_over_the_cell():
    cell = randomise_biases(GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    xs = inputs(TIME, BATCH, INPUT)

    @nnx.scan(in_axes=(None, nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def run(cell, carry, x):
        return cell(carry, x)

    got = run(cell, cell.initialize_carry((BATCH, INPUT)), xs)
    assert_close(got, gru_jax.unroll(cell.params, xs))


def test_dropout_follows_train_and_eval():
    module = GRU(INPUT, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    xs = inputs()
    assert np.any(module(xs) != module(xs)), "the stream must move on between calls"
    chex.assert_trees_all_equal(*(module(xs, rngs=jax.random.key(1)) for _ in range(2)))
    want = gru_jax.unroll_stack(module.stack, xs.swapaxes(0, 1))[1].swapaxes(0, 1)
    assert_close(module(xs, deterministic=True), want)
    module.eval()
    assert_close(module(xs), want)
    module.train()
    assert np.any(module(xs) != want)


def test_dtypes():
    module = GRU(INPUT, HIDDEN, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(nnx.state(module)))
    carry, ys = module(inputs(), return_carry=True)
    assert ys.dtype == jnp.bfloat16
    assert carry.dtype == jnp.float32


@pytest.mark.parametrize("by", ["metadata", "initialiser"])
def test_parameters_shard_with_the_usual_annotations(by):
    mesh = jax.make_mesh((2,), ("model",))
    names = (None, "model")
    if by == "metadata":
        options = {
            "kernel_metadata": {"out_sharding": names},
            "recurrent_kernel_metadata": {"out_sharding": names},
            "bias_metadata": {"out_sharding": ("model",)},
        }
    else:
        options = {
            "kernel_init": nnx.with_partitioning(nnx.initializers.lecun_normal(), names),
            "recurrent_kernel_init": nnx.with_partitioning(nnx.initializers.orthogonal(), names),
            "bias_init": nnx.with_partitioning(nnx.initializers.normal(0.1), ("model",)),
        }
    hidden = 4

    def create():
        return GRU(INPUT, hidden, num_layers=2, rngs=nnx.Rngs(0), **options)

    with jax.set_mesh(mesh):
        module = nnx.jit(create)()
    specs = nnx.get_partition_spec(nnx.state(module))
    cell = module.layers[1][0]
    assert specs["layers"][1][0]["w_h"].get_value() == PartitionSpec(*names)
    assert cell.w_x[...].sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*names)), 2)
    assert cell.b[...].sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("model")), 1)

    stack = jax.device_get(module.stack)
    xs = inputs()
    with jax.set_mesh(mesh):
        ys = nnx.jit(lambda m, x: m(x))(module, xs)
    want = gru_jax.unroll_stack(stack, xs.swapaxes(0, 1))[1].swapaxes(0, 1)
    assert_close(jax.device_get(ys), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool"])
def test_integers_are_promoted_as_flax_promotes_them(kind):
    """To ``dtype``, and without one to the dtype of the parameters."""
    xs = jnp.asarray(inputs() > 0, kind)
    with jax.numpy_dtype_promotion("standard"):
        flax = nnx.RNN(nnx.GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)))(xs).dtype
    for dtype, expected in ((None, flax), (jnp.bfloat16, jnp.bfloat16)):
        module = GRU(INPUT, HIDDEN, dtype=dtype, rngs=nnx.Rngs(0))
        cell = module.layers[0][0]
        carry = cell.initialize_carry((BATCH, INPUT))
        floating = xs.astype(expected)
        assert module(xs).dtype == cell(carry, xs[:, 0])[1].dtype == expected
        chex.assert_trees_all_equal(module(xs), module(floating))
        chex.assert_trees_all_equal(cell(carry, xs[:, 0]), cell(carry, floating[:, 0]))


def test_dropout_without_effect_warns_and_needs_no_randomness():
    with pytest.warns(UserWarning, match="dropout=0.5 has no effect"):
        module = GRU(INPUT, HIDDEN, dropout=0.5, rngs=nnx.Rngs(params=0))
    chex.assert_trees_all_equal(module(inputs()), module(inputs(), deterministic=True))


def test_any_cell_has_modules():
    """Those of a named class and of its initialiser have the same parameters."""
    cell = RecurrentCell(INPUT, HIDDEN, init_cell=gru_jax.init_lstm, rngs=nnx.Rngs(0))
    assert isinstance(cell.params, gru_jax.LSTMParams)
    module = RecurrentLayers(
        INPUT, HIDDEN, init_cell=gru_jax.init_lstm, forget_bias=2.0, rngs=nnx.Rngs(0)
    )
    named = LSTM(INPUT, HIDDEN, forget_bias=2.0, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(module(inputs()), named(inputs()))


@pytest.mark.parametrize(
    ("module", "init"), [(GRUCell, gru_jax.init), (LSTMCell, gru_jax.init_lstm)]
)
def test_chrono_bias_is_that_of_the_initialiser(module, init):
    cell = module(INPUT, HIDDEN, chrono_bias=50.0, rngs=nnx.Rngs(0))
    expected = init(jax.random.key(0), INPUT, HIDDEN, chrono_bias=50.0).b
    np.testing.assert_array_equal(cell.params.b, expected)


def test_a_parameter_may_be_replaced_by_an_array():
    cell = randomise_biases(GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    expected = cell.params
    cell.b = cell.b[...]
    jax.tree.map(np.testing.assert_array_equal, cell.params, expected)


@pytest.mark.skipif(not hasattr(nnx, "view"), reason="nnx.view is new in Flax 0.12.4")
def test_a_view_is_deterministic():
    model = GRU(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    xs = jnp.ones((2, 5, 3))
    view = nnx.view(nnx.Sequential(model, nnx.Dropout(0.5, rngs=nnx.Rngs(0))), deterministic=True)
    np.testing.assert_array_equal(view(xs), model(xs, deterministic=True))
    assert not model.deterministic
