"""Which calls of ``unroll`` get the one-block kernels, and how often they are launched."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

import gru_jax
from gru_jax._unroll.fused import one_block
from tests.unroll.fake_device import fake_default_device
from tests.unroll.fused.block_interpreter import needs_mma

A100 = "NVIDIA A100-SXM4-80GB"
KERNEL = "custom_call @mosaic_gpu"


def lowered(hidden, dtype, **options):
    """The program of a gradient, for a GPU."""
    params = gru_jax.init(jax.random.key(0), 3, hidden, dtype=jnp.float32)
    xs = jnp.zeros((4, 9, 3), dtype)

    def loss(params, xs):
        last, ys = gru_jax.unroll(params, xs, **options)
        return last.sum() + ys.astype(jnp.float32).sum()

    jax.clear_caches()
    return jax.jit(jax.grad(loss)).trace(params, xs).lower(lowering_platforms=("cuda",)).as_text()


@needs_mma
@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "dtype", "x64"),
    [(5, "float32", False), (100, "bfloat16", True), (192, "float32", True), (64, "float16", True)],
)
def test_a_request_gets_the_kernels(hidden, dtype, x64):
    with jax.enable_x64(x64), fake_default_device("gpu", A100, is_verified=False):
        text = lowered(hidden, dtype, implementation="mosaic_gpu")
        assert text.count(KERNEL) == 2
        assert KERNEL not in lowered(hidden, dtype)


@needs_mma
@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_shard_map_over_the_batch(bidirectional):
    init = functools.partial(gru_jax.init_stack, bidirectional=bidirectional)
    stack = init(jax.random.key(0), 3, 20, learned_h0=True)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    replicated, of_steps = PartitionSpec(), PartitionSpec(None, "data")

    def loss(stack, xs, starts):
        options = {"starts": starts, "implementation": "mosaic_gpu"}
        _, ys = gru_jax.unroll_stack(stack, xs, **options)
        return jax.lax.psum((ys**2).sum(), "data")

    sharded = jax.shard_map(
        loss, mesh=mesh, in_specs=(replicated, of_steps, of_steps), out_specs=replicated
    )
    with fake_default_device("gpu", A100, is_verified=False):
        arguments = (stack, jnp.zeros((4, 18, 3)), jnp.zeros((4, 18), bool))
        traced = jax.jit(jax.grad(sharded)).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(KERNEL) == 2


@needs_mma
@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "sizes", "kernels"),
    [(None, (100, 100), 2), ("chunk", (100, 100), 4), (None, (100, 64), 4)],
)
def test_both_directions_are_one_launch(checkpoint, sizes, kernels):
    """Where both run whole and have parameters of the same shapes."""
    cells = tuple(gru_jax.init(jax.random.key(0), 3, size) for size in sizes)
    stack = gru_jax.Stack((cells,))

    def loss(stack, xs):
        options = {"implementation": "mosaic_gpu", "checkpoint": checkpoint}
        return gru_jax.unroll_stack(stack, xs, **options)[1].sum()

    with fake_default_device("gpu", A100, is_verified=False):
        traced = jax.jit(jax.grad(loss)).trace(stack, jnp.zeros((4, 9, 3)))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(KERNEL) == kernels


@needs_mma
def test_explain():
    xs = jax.ShapeDtypeStruct((4, 9, 3), jnp.float32)
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), 3, 100))
    with fake_default_device("gpu", A100, is_verified=False):
        by_default = gru_jax.explain(params, xs)
        requested = gru_jax.explain(params, xs, implementation="mosaic_gpu")
    assert by_default.implementation == "xla"
    assert "not yet verified on this device" in str(by_default.reasons["mosaic_gpu"])
    assert "the one-block kernels" in str(requested)
    assert "not yet verified on this device" in str(requested)


@pytest.mark.parametrize(
    ("kind", "hidden", "precision", "reason"),
    [
        ("AMD Instinct MI300X", 64, None, "needs an NVIDIA GPU of compute capability 8.0"),
        ("Tesla T4", 64, None, "but the default device is Tesla T4"),
        (A100, 193, None, "the hidden size must be at most 192, got 193"),
        (A100, 64, "highest", 'jax.default_matmul_precision is "highest"'),
    ],
)
def test_unsupported_calls(kind, hidden, precision, reason):
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), 3, hidden))
    xs = jax.ShapeDtypeStruct((4, 9, 3), jnp.float32)
    with (
        jax.default_matmul_precision(precision),
        fake_default_device("gpu", kind),
        pytest.raises(NotImplementedError, match=reason),
    ):
        gru_jax.explain(params, xs, implementation="mosaic_gpu")


@pytest.mark.skipif(jax.__version_info__ >= one_block.MIN_JAX, reason="jax has plgpu.mma")
def test_an_older_jax():
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), 3, 64))
    xs = jax.ShapeDtypeStruct((4, 9, 3), jnp.float32)
    with (
        fake_default_device("gpu", A100),
        pytest.raises(NotImplementedError, match=r"needs jax 0\.11\.1 or newer"),
    ):
        gru_jax.explain(params, xs, implementation="mosaic_gpu")
