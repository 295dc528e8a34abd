"""Unrolling under a mesh: shard_map, and shardings that are part of the arrays' types."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gru_jax
from tests.slow import slow

TIME, BATCH, INPUT, HIDDEN = 5, 4, 3, 6
INITS = [gru_jax.init, gru_jax.init_lstm]


def case(init, learned_h0=True):
    params = init(jax.random.key(0), INPUT, HIDDEN, bias_init="torch", learned_h0=learned_h0)
    xs = jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT))
    lengths = jnp.array([5, 0, 3, 2])
    starts = jax.random.bernoulli(jax.random.key(2), 0.4, (TIME, BATCH))
    return params, xs, lengths, starts


def assert_close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("reverse", "checkpoint"))
def unroll(params, xs, **options):
    return gru_jax.unroll(params, xs, **options)


def loss(outputs):
    h_last, ys = outputs
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, h_last)) + (ys**2).sum()


@functools.partial(jax.jit, static_argnames=("reverse", "checkpoint"))
def gradient(params, xs, **options):
    return jax.grad(lambda params: loss(gru_jax.unroll(params, xs, **options)))(params)


@functools.cache
def expected(init, learned_h0=True, reverse=False):
    """Outputs and gradients on one device."""
    params, xs, lengths, starts = case(init, learned_h0)
    options = {"lengths": lengths, "starts": starts, "reverse": reverse}
    return unroll(params, xs, **options), gradient(params, xs, **options)


@pytest.mark.parametrize(
    ("init", "checkpoint", "learned_h0"),
    [
        (gru_jax.init, None, True),
        slow(gru_jax.init, "step", True),
        slow(gru_jax.init, "chunk", True),
        slow(gru_jax.init_lstm, None, True),
        (gru_jax.init_lstm, "step", True),
        slow(gru_jax.init_lstm, "chunk", True),
        slow(gru_jax.init, None, False),
    ],
)
def test_shard_map_over_the_batch(init, checkpoint, learned_h0):
    params, xs, lengths, starts = case(init, learned_h0)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec(None, "data")

    def run(params, xs, lengths, starts):
        return gru_jax.unroll(params, xs, lengths=lengths, starts=starts, checkpoint=checkpoint)

    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(), batch, PartitionSpec("data"), batch),
        out_specs=(PartitionSpec("data"), batch),
    )
    outputs, gradients = expected(init, learned_h0)
    assert_close(jax.jit(sharded)(params, xs, lengths, starts), outputs)

    def sharded_loss(params):
        return loss(sharded(params, xs, lengths, starts))

    assert_close(jax.jit(jax.grad(sharded_loss))(params), gradients)


@pytest.mark.parametrize(
    ("init", "axis_type", "reverse"),
    [
        slow(gru_jax.init, AxisType.Explicit, False),
        (gru_jax.init, AxisType.Explicit, True),
        (gru_jax.init, AxisType.Auto, False),
        slow(gru_jax.init, AxisType.Auto, True),
        (gru_jax.init_lstm, AxisType.Explicit, False),
        slow(gru_jax.init_lstm, AxisType.Explicit, True),
        slow(gru_jax.init_lstm, AxisType.Auto, False),
        (gru_jax.init_lstm, AxisType.Auto, True),
    ],
)
def test_a_sharded_batch(init, axis_type, reverse):
    params, xs, lengths, starts = case(init)
    outputs, gradients = expected(init, reverse=reverse)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))

    def put(value, *names):
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*names)))

    xs = put(xs, None, "data")
    options = {
        "lengths": put(lengths, "data"),
        "starts": put(starts, None, "data"),
        "reverse": reverse,
    }
    with jax.set_mesh(mesh):
        params = jax.tree.map(put, params)
        # Not within a jit of the test: so users call it, too.
        actual = gru_jax.unroll(params, xs, **options)
        actual_gradients = gradient(params, xs, **options)
    assert not actual[1].sharding.is_fully_replicated
    assert_close(actual, outputs)
    assert_close(actual_gradients, gradients)


def test_shard_map_over_no_steps():
    params, xs, *_ = case(gru_jax.init)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec(None, "data")
    sharded = jax.shard_map(
        gru_jax.unroll,
        mesh=mesh,
        in_specs=(PartitionSpec(), batch),
        out_specs=(PartitionSpec("data"), batch),
    )
    h_last, ys = jax.jit(sharded)(params, xs[:0])
    assert_close(h_last, gru_jax.initial_state(params, (BATCH,)))
    assert ys.shape == (0, BATCH, HIDDEN)


@pytest.mark.parametrize("implementation", ["xla", "scan"])
@pytest.mark.parametrize("control", ["starts", slow("mask")])
def test_controls_that_differ_from_device_to_device(control, implementation):
    """The inputs do not."""
    params, xs, _, starts = case(gru_jax.init)
    flags = jnp.stack([starts, ~starts])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def run(params, xs, flags):
        options = {control: flags[0], "implementation": implementation}
        return gru_jax.unroll(params, xs, **options)[1][None]

    spec = PartitionSpec("data")
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), spec), out_specs=spec
    )
    expected = jnp.stack([unroll(params, xs, **{control: each})[1] for each in flags])
    assert_close(jax.jit(sharded)(params, xs, flags), expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, slow(AxisType.Explicit)])
def test_parameters_made_outside_of_the_mesh(axis_type):
    params, xs, *_ = case(gru_jax.init)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(axis_type,))):
        actual = jax.grad(lambda params: loss(gru_jax.unroll(params, xs)))(params)
    assert_close(actual, gradient(params, xs))
