"""Which implementation serves which call, on devices that are not there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import gru_jax
from tests.unroll.fake_device import likely

KERNEL = "tpu_custom_call"
XS = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.bfloat16)


def params(hidden=128, init=gru_jax.init, **options):
    return init(jax.random.key(0), 2, hidden, recurrent_kernel_init="torch", **options)


def lower(function, *arguments, platforms=("tpu",)):
    """A program as a device would be given it: nothing that is compiled is left to be found."""
    jax.clear_caches()
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()


def test_a_tpu_is_given_the_kernels():
    def gradient(params, xs):
        return jax.grad(lambda params: gru_jax.unroll(params, xs)[0].sum())(params)

    with likely("tpu", "TPU v5e"):
        assert lower(gru_jax.unroll, params(), XS).count(KERNEL) == 1
        assert lower(gradient, params(), XS).count(KERNEL) == 2


def test_kernels_that_have_run_on_no_device_are_taken_by_name_alone():
    with likely("tpu", "TPU v5e", has_run=False):
        assert KERNEL not in lower(gru_jax.unroll, params(), XS)
        named = functools.partial(gru_jax.unroll, implementation="pallas_tpu")
        assert KERNEL in lower(named, params(), XS)


@pytest.mark.parametrize(
    ("of_cell", "dtype", "of_state", "reason"),
    [
        ({"reset": "before"}, "bfloat16", None, 'reset="before"'),
        ({"init": gru_jax.init_lstm}, "bfloat16", None, "LSTMParams"),
        ({"hidden": 100}, "bfloat16", None, "multiple of 128 up to 2048, and is 100"),
        ({}, "float32", None, "float32 inputs have to ask"),
        ({}, "float16", None, "the inputs are float16"),
        ({}, "bfloat16", "bfloat16", "h0 is bfloat16"),
    ],
)
def test_what_the_kernels_cannot_serve(of_cell, dtype, of_state, reason):
    """By name it is refused, and otherwise served by another implementation."""
    cell, xs = params(**of_cell), XS.astype(dtype)
    h0 = None if of_state is None else jnp.zeros((4, 128), of_state)
    with likely("tpu", "TPU v5e"):
        with pytest.raises(NotImplementedError, match=f"pallas_tpu.*{reason}"):
            gru_jax.unroll(cell, xs, h0, implementation="pallas_tpu")
        assert KERNEL not in lower(gru_jax.unroll, cell, xs, h0)


@pytest.mark.parametrize(
    ("platform", "kind", "reason"),
    [
        ("cpu", "cpu", "runs on TPU, and this is cpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", "runs on TPU, and this is gpu"),
        ("tpu", "TPU v3", "this is TPU v3"),
    ],
)
def test_devices_that_the_kernels_do_not_run_on(platform, kind, reason):
    with likely(platform, kind), pytest.raises(NotImplementedError, match=reason):
        gru_jax.unroll(params(), XS, implementation="pallas_tpu")


def test_sizes_that_fit_into_one_kind_and_not_into_another():
    for kind, is_served in (("TPU v4", False), ("TPU v5 lite", True)):
        with likely("tpu", kind):
            large = jax.eval_shape(lambda: params(hidden=1408))
            assert (KERNEL in lower(gru_jax.unroll, large, XS)) == is_served


def test_float32_that_asks_for_bfloat16():
    xs = XS.astype(jnp.float32)
    with likely("tpu", "TPU v6e"), jax.default_matmul_precision("bfloat16"):
        assert KERNEL in lower(gru_jax.unroll, params(), xs)


def test_several_devices_need_shard_map_or_the_name():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec(None, "data")

    def ys(params, xs):
        return gru_jax.unroll(params, xs)[1]

    specs = (PartitionSpec(), batch)
    sharded = jax.shard_map(ys, mesh=mesh, in_specs=specs, out_specs=batch)

    def gradient(params, xs):
        return jax.grad(lambda params: sharded(params, xs).astype(jnp.float32).sum())(params)

    with likely("tpu", "TPU v5e", count=2):
        assert KERNEL not in lower(gru_jax.unroll, params(), XS)
        named = functools.partial(gru_jax.unroll, implementation="pallas_tpu")
        assert KERNEL in lower(named, params(), XS)
        assert lower(gradient, params(), XS).count(KERNEL) == 2


def test_a_program_for_another_platform_contains_no_kernel():
    """Nor one for several, which is right on each of them."""

    def unroll(params, xs):
        return gru_jax.unroll(params, xs, lengths=jnp.array([3, 2, 1, 0]))

    expected = unroll(params(), XS)
    with likely("tpu", "TPU v5e"):
        for platforms in (("cpu",), ("cuda",), ("cpu", "tpu", "cuda")):
            assert KERNEL not in lower(unroll, params(), XS, platforms=platforms)
        jax.clear_caches()
        exported = jax.export.export(jax.jit(unroll), platforms=("cpu", "tpu"))(params(), XS)
        for got, want in zip(exported.call(params(), XS), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2**-7)


def test_without_programs():
    """Line by line, for debugging, no kernel runs."""
    cell, xs = params(), XS[:2]
    expected = gru_jax.unroll(cell, xs)
    with likely("tpu", "TPU v5e"), jax.disable_jit():
        for got, want in zip(gru_jax.unroll(cell, xs), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2**-7)


def test_sizes_that_are_not_known_yet():
    (time,) = jax.export.symbolic_shape("time")
    xs = jax.ShapeDtypeStruct((time, 4, 2), XS.dtype)
    with likely("tpu", "TPU v5e"):
        jax.clear_caches()
        exported = jax.export.export(jax.jit(gru_jax.unroll), platforms=("tpu",))(params(), xs)
        assert KERNEL not in exported.mlir_module()
        named = jax.jit(functools.partial(gru_jax.unroll, implementation="pallas_tpu"))
        with pytest.raises(NotImplementedError, match=r"\(time, 4, 2\)"):
            jax.export.export(named, platforms=("tpu",))(params(), xs)
