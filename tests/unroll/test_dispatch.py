"""Which implementation a call selects, on fake devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import gru_jax
from tests.assert_trees import assert_close
from tests.unroll.fake_device import fake_default_device
from tests.unroll.fused.kernel_harness import as_relu_gru

KERNEL = "tpu_custom_call"
XS = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.bfloat16)


def params(hidden=128, init=gru_jax.init, **options):
    return init(jax.random.key(0), 2, hidden, recurrent_kernel_init="torch", **options)


def lower(function, *arguments, platforms=("tpu",)):
    """The program for a device, traced without caches."""
    jax.clear_caches()
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()


def test_a_tpu_gets_the_kernels():
    def gradient(params, xs):
        return jax.grad(lambda params: gru_jax.unroll(params, xs)[0].sum())(params)

    with fake_default_device("tpu", "TPU v5e"):
        assert lower(gru_jax.unroll, params(), XS).count(KERNEL) == 1
        assert lower(gradient, params(), XS).count(KERNEL) == 2


def test_kernels_that_have_never_run_on_a_device_are_used_only_when_requested():
    with fake_default_device("tpu", "TPU v5e", is_verified=False):
        assert KERNEL not in lower(gru_jax.unroll, params(), XS)
        named = functools.partial(gru_jax.unroll, implementation="pallas_tpu")
        assert KERNEL in lower(named, params(), XS)


@pytest.mark.parametrize(
    ("of_cell", "dtype", "of_state", "reason"),
    [
        ({"reset": "before"}, "bfloat16", None, 'reset="before"'),
        ({"init": gru_jax.init_lstm}, "bfloat16", None, "LSTMParams"),
        ({"hidden": 100}, "bfloat16", None, "multiple of 128 up to 2048, got 100"),
        ({}, "float32", None, "float32 inputs require"),
        ({}, "float16", None, "inputs must be bfloat16 or float32, got float16"),
        ({}, "bfloat16", "bfloat16", "the state must be float32, got bfloat16"),
    ],
)
def test_unsupported_calls(of_cell, dtype, of_state, reason):
    """An explicit request raises; the default is another implementation."""
    cell, xs = jax.eval_shape(lambda: params(**of_cell)), XS.astype(dtype)
    h0 = None if of_state is None else jnp.zeros((4, 128), of_state)
    with fake_default_device("tpu", "TPU v5e"):
        with pytest.raises(NotImplementedError, match=f"pallas_tpu.*{reason}"):
            gru_jax.explain(cell, xs, h0, implementation="pallas_tpu")
        explanation = gru_jax.explain(cell, xs, h0)
    assert explanation.implementation == "xla"
    assert reason in "; ".join(explanation.reasons["pallas_tpu"])


def test_a_subclass_that_overrides_the_step_is_another_cell():
    """Its values are its own by default, and an explicit request raises."""
    cell = as_relu_gru(params())
    expected = gru_jax.unroll(cell, XS, implementation="scan")
    with fake_default_device("tpu", "TPU v5e"):
        assert KERNEL not in lower(gru_jax.unroll, cell, XS)
        with pytest.raises(NotImplementedError, match=r"supports only GRUParams.*got ReluGRU"):
            gru_jax.unroll(cell, XS, implementation="pallas_tpu")
        assert_close(gru_jax.unroll(cell, XS), expected, "bfloat16")


@pytest.mark.parametrize(
    ("platform", "kind", "reason"),
    [
        ("cpu", "cpu", "needs a TPU, but the default device is a CPU"),
        ("gpu", "NVIDIA H100 80GB HBM3", "needs a TPU, but the default device is a GPU"),
        ("tpu", "TPU v3", "but the default device is TPU v3"),
    ],
)
def test_unsupported_devices(platform, kind, reason):
    with fake_default_device(platform, kind), pytest.raises(NotImplementedError, match=reason):
        gru_jax.unroll(params(), XS, implementation="pallas_tpu")


def test_sizes_that_fit_into_one_kind_of_tpu_only():
    for kind, is_supported in (("TPU v4", False), ("TPU v5 lite", True)):
        with fake_default_device("tpu", kind):
            large = jax.eval_shape(lambda: params(hidden=1408))
            assert (KERNEL in lower(gru_jax.unroll, large, XS)) == is_supported


def test_float32_inputs_that_permit_bfloat16():
    xs = XS.astype(jnp.float32)
    with fake_default_device("tpu", "TPU v6e"), jax.default_matmul_precision("bfloat16"):
        assert KERNEL in lower(gru_jax.unroll, params(), xs)


@pytest.mark.parametrize("count", [1, 8])
def test_a_program_on_one_of_several_devices_gets_the_kernels(count):
    with fake_default_device("tpu", "TPU v5e", count=count):
        assert lower(gru_jax.unroll, params(), XS).count(KERNEL) == 1


def test_on_several_devices_each_shard_gets_the_kernels():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec(None, "data")

    def ys(params, xs):
        return gru_jax.unroll(params, xs)[1]

    specs = (PartitionSpec(), batch)
    sharded = jax.shard_map(ys, mesh=mesh, in_specs=specs, out_specs=batch)

    def gradient(params, xs):
        return jax.grad(lambda params: sharded(params, xs).astype(jnp.float32).sum())(params)

    with fake_default_device("tpu", "TPU v5e", count=2):
        assert lower(gradient, params(), XS).count(KERNEL) == 2


def test_a_program_for_another_platform_contains_no_kernel():
    """Nor does one for several platforms, which is right on each of them."""

    def unroll(params, xs):
        return gru_jax.unroll(params, xs, lengths=jnp.array([3, 2, 1, 0]))

    expected = unroll(params(), XS)
    with fake_default_device("tpu", "TPU v5e"):
        for platforms in (("cpu",), ("cuda",), ("cpu", "tpu", "cuda")):
            assert KERNEL not in lower(unroll, params(), XS, platforms=platforms)
        jax.clear_caches()
        exported = jax.export.export(jax.jit(unroll), platforms=("cpu", "tpu"))(params(), XS)
        for got, want in zip(exported.call(params(), XS), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2**-7)


def test_disable_jit():
    """No kernel runs."""
    cell, xs = params(), XS[:2]
    expected = gru_jax.unroll(cell, xs)
    with fake_default_device("tpu", "TPU v5e"), jax.disable_jit():
        for got, want in zip(gru_jax.unroll(cell, xs), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2**-7)


def test_symbolic_sizes():
    (time,) = jax.export.symbolic_shape("time")
    xs = jax.ShapeDtypeStruct((time, 4, 2), XS.dtype)
    with fake_default_device("tpu", "TPU v5e"):
        jax.clear_caches()
        exported = jax.export.export(jax.jit(gru_jax.unroll), platforms=("tpu",))(params(), xs)
        assert KERNEL not in exported.mlir_module()
        named = jax.jit(functools.partial(gru_jax.unroll, implementation="pallas_tpu"))
        with pytest.raises(NotImplementedError, match=r"\(time, 4, 2\)"):
            jax.export.export(named, platforms=("tpu",))(params(), xs)
