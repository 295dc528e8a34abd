"""The kernels of every platform are traced and lowered with 64 bits enabled."""

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from tests.slow import slow, slow_but
from tests.unroll.fake_device import fake_default_device

TIME, BATCH, INPUT, HIDDEN = 5, 17, 3, 256


@pytest.mark.parametrize("reverse", slow_but([False], [False, True]), ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", slow_but(["bfloat16"], ["bfloat16", "float32"]))
@pytest.mark.parametrize(
    ("platform", "kind", "lowering", "implementation", "kernel"),
    [
        slow("gpu", "NVIDIA H100 80GB HBM3", "cuda", "mosaic_gpu", "custom_call @mosaic_gpu"),
        ("tpu", "TPU v5e", "tpu", "pallas_tpu", "custom_call @tpu_custom_call"),
    ],
    ids=["hopper", "tpu"],
)
def test_a_gradient_contains_both_kernels(
    platform, kind, lowering, implementation, kernel, dtype, reverse
):
    def loss(params, xs, h0, lengths, starts):
        last, ys = gru_jax.unroll(
            params,
            xs,
            h0,
            lengths=lengths,
            starts=starts,
            reverse=reverse,
            implementation=implementation,
        )
        return last.sum() + ys.astype(jnp.float32).sum()

    jax.clear_caches()
    with jax.enable_x64(True), fake_default_device(platform, kind):
        arguments = (
            gru_jax.init(jax.random.key(0), INPUT, HIDDEN, dtype=jnp.float32, learned_h0=True),
            jnp.zeros((TIME, BATCH, INPUT), dtype),
            jnp.zeros((BATCH, HIDDEN), jnp.float32),
            jnp.full((BATCH,), TIME, jnp.int64),
            jnp.zeros((TIME, BATCH), bool),
        )
        with jax.default_matmul_precision("bfloat16"):
            traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arguments)
            text = traced.lower(lowering_platforms=(lowering,)).as_text()
    assert text.count(kernel) == 2
