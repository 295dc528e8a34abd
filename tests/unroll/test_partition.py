"""Programs that XLA partitions along automatic axes: each device runs its sequences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gru_jax
from gru_jax._unroll.fused.interface import FusedKernels
from gru_jax._unroll.fused.reference_kernels import REFERENCE_KERNELS
from gru_jax._unroll.partition import NO_BATCH, partition_over_batch
from tests.assert_trees import assert_close
from tests.slow import slow
from tests.unroll.collectives import collectives
from tests.unroll.fused.kernel_harness import unroll_by

TIME, BATCH, INPUT, HIDDEN = 5, 8, 3, 6
PARAMS = gru_jax.init(jax.random.key(0), INPUT, HIDDEN, bias_init="torch", learned_h0=True)
XS = np.asarray(jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT)))
LENGTHS = np.array([5, 0, 3, 2, 1, 5, 4, 4])
STARTS = np.arange(TIME * BATCH).reshape(TIME, BATCH) % 3 == 0
ALL_REDUCE = ("all-reduce", False)


def mesh_of(**axes):
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def place(tree, mesh, *names):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*names)))


def value_and_gradients(unroll, params, xs, **options):
    def loss(params, xs):
        h_last, ys = unroll(params, xs, **options)
        return jnp.sin(h_last).sum() + (ys**2).sum(), (h_last, ys)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs)


def over_parameters(unroll, params, xs):
    """Parameters alone are mapped, as in training with several seeds."""

    def scaled(scale):
        return unroll(jax.tree.map(lambda leaf: scale * leaf, params), xs)[1]

    return jax.vmap(scaled)(jnp.arange(1.0, 4.0))


def of_params(function):
    """The gradient with respect to parameters of a function that returns outputs."""

    def gradient(unroll, params, xs):
        return jax.grad(lambda params: (function(unroll, params, xs) ** 2).sum())(params)

    return gradient


def scan_of_calls(unroll, params, xs):
    first = unroll(params, xs[:1])[0]
    return jax.lax.scan(lambda h, x: unroll(params, x, h), first, jnp.stack([xs, 2 * xs]))[1]


def tangent(unroll, params, xs):
    return jax.jvp(lambda xs: unroll(params, xs)[1], (xs,), (xs,))


CASES = {
    "gradients": value_and_gradients,
    "controls": functools.partial(value_and_gradients, lengths=LENGTHS, starts=STARTS),
    "reverse": functools.partial(value_and_gradients, reverse=True),
    "checkpoint": functools.partial(value_and_gradients, checkpoint="chunk"),
    "vmap over parameters": of_params(over_parameters),
    "scan": of_params(scan_of_calls),
    "remat": of_params(lambda unroll, *both: jax.checkpoint(lambda *b: unroll(*b)[1])(*both)),
    "jvp": tangent,
    "vmap over sequences": of_params(
        lambda unroll, params, xs: jax.vmap(lambda x: unroll(params, x)[1], 1, 1)(xs)
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        *(["gradients", "vmap over parameters"]),
        *map(slow, list(CASES)[1:4]),
        *map(slow, list(CASES)[5:]),
    ],
)
@pytest.mark.parametrize("implementation", ["xla", "fused"])
def test_it_is_as_on_one_device(name, implementation):
    mesh = mesh_of(data=4)
    with unroll_by(REFERENCE_KERNELS) as by_kernels:
        unroll = by_kernels if implementation == "fused" else gru_jax.unroll
        run = jax.jit(functools.partial(CASES[name], unroll))
        expected = jax.device_get(run(PARAMS, XS))
        actual = run(place(PARAMS, mesh), place(XS, mesh, None, "data"))
    assert_close(jax.device_get(actual), expected, "float32")


@pytest.mark.parametrize("implementation", ["xla", "fused"])
def test_a_gradient_is_summed_over_devices_once(implementation):
    mesh = mesh_of(data=4)
    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    with unroll_by(REFERENCE_KERNELS) as by_kernels:
        unroll = by_kernels if implementation == "fused" else gru_jax.unroll
        gradient = jax.jit(of_params(lambda unroll, *both: unroll(*both)[1]), static_argnums=0)
        for time in (16, 4096):
            xs = jax.ShapeDtypeStruct((time, BATCH, INPUT), jnp.float32, sharding=sharding)
            hlo = gradient.lower(unroll, place(PARAMS, mesh), xs).compile().as_text()
            assert set(collectives(hlo)) == {ALL_REDUCE}


def test_a_kernel_is_lowered_for_each_devices_sequences():
    shapes = []

    def forward(args, **options):
        shapes.append(args.h0.shape)
        return REFERENCE_KERNELS.forward(args, **options)

    mesh = mesh_of(data=4)
    kernels = FusedKernels(forward, REFERENCE_KERNELS.backward)
    with unroll_by(kernels) as unroll:
        jax.jit(unroll)(PARAMS, XS)
        assert set(shapes) == {(BATCH, HIDDEN)}
        jax.jit(unroll)(place(PARAMS, mesh), place(XS, mesh, None, "data"))
    assert (BATCH // 4, HIDDEN) in shapes


@pytest.mark.parametrize(
    "names", [("data", "model"), slow(("model", None)), slow((("data", "model"), None))]
)
def test_two_batch_axes(names):
    xs = XS.reshape(TIME, 4, 2, INPUT)
    mesh = mesh_of(data=2, model=2)
    run = jax.jit(functools.partial(value_and_gradients, gru_jax.unroll))
    actual = run(place(PARAMS, mesh), place(xs, mesh, None, *names))
    assert_close(jax.device_get(actual), jax.device_get(run(PARAMS, xs)), "float32")


def test_arguments_that_are_sharded_otherwise():
    """Parameters are gathered, and so is time."""
    mesh = mesh_of(data=2)
    run = jax.jit(functools.partial(value_and_gradients, gru_jax.unroll))
    expected = jax.device_get(run(PARAMS, XS[:4]))
    params = jax.tree.map(lambda leaf: place(leaf, mesh, *[None] * (leaf.ndim - 1), "data"), PARAMS)
    assert_close(jax.device_get(run(params, XS[:4])), expected, "float32")
    assert_close(jax.device_get(run(PARAMS, place(XS[:4], mesh, "data"))), expected, "float32")


def test_a_function_may_capture_arrays():
    captured = jnp.arange(INPUT, dtype=jnp.float32).reshape(1, 1, INPUT)

    def run(scale, xs):
        return (scale * captured * xs).sum(0), xs.sum()

    partitioned = partition_over_batch(run, (NO_BATCH, 1), (0, NO_BATCH), rank=1)
    xs = place(XS, mesh_of(data=2), None, "data")
    assert_close(jax.jit(partitioned)(2.0, xs), run(2.0, XS), "float32")


def test_a_program_for_several_devices_is_exported():
    mesh = mesh_of(data=2)
    arrays = place(PARAMS, mesh), place(XS, mesh, None, "data")
    exported = jax.export.export(jax.jit(gru_jax.unroll))(*arrays)
    assert_close(jax.jit(exported.call)(*arrays), gru_jax.unroll(PARAMS, XS), "float32")
