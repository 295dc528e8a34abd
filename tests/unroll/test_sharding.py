"""Unrolling under a mesh: shard_map, and shardings that are part of the arrays' types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gru_jax

TIME, BATCH, INPUT, HIDDEN = 5, 4, 3, 6
INITS = [gru_jax.init, gru_jax.init_lstm]


def case(init, learned_h0=True):
    params = init(jax.random.key(0), INPUT, HIDDEN, bias_init="torch", learned_h0=learned_h0)
    xs = jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT))
    lengths = jnp.array([5, 0, 3, 2])
    starts = jax.random.bernoulli(jax.random.key(2), 0.4, (TIME, BATCH))
    return params, xs, lengths, starts


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def loss(params, xs, **options):
    h, ys = gru_jax.unroll(params, xs, **options)
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, h)) + (ys**2).sum()


@pytest.mark.parametrize(
    ("init", "checkpoint", "learned_h0"),
    [
        *((init, checkpoint, True) for init in INITS for checkpoint in (None, "step", "chunk")),
        (gru_jax.init, None, False),
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
    assert_close(jax.jit(sharded)(params, xs, lengths, starts), run(params, xs, lengths, starts))

    def sharded_loss(params):
        h, ys = sharded(params, xs, lengths, starts)
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, h)) + (ys**2).sum()

    want = jax.grad(loss)(params, xs, lengths=lengths, starts=starts)
    assert_close(jax.jit(jax.grad(sharded_loss))(params), want)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sharded_batch(init, axis_type, reverse):
    params, xs, lengths, starts = case(init)
    options = {"lengths": lengths, "starts": starts, "reverse": reverse}
    want = gru_jax.unroll(params, xs, **options)
    want_grad = jax.grad(loss)(params, xs, **options)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))

    def put(value, *names):
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*names)))

    xs = put(xs, None, "data")
    options |= {"lengths": put(lengths, "data"), "starts": put(starts, None, "data")}
    with jax.set_mesh(mesh):
        params = jax.tree.map(put, params)
        got = gru_jax.unroll(params, xs, **options)
        got_grad = jax.jit(jax.grad(loss), static_argnames="reverse")(params, xs, **options)
    assert not got[1].sharding.is_fully_replicated
    assert_close(got, want)
    assert_close(got_grad, want_grad)
