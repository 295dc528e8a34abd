"""The kernels for Hopper GPUs, interpreted: values, gradients, and that nothing races."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll.fused import interface as kernels
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.masking import Controls, plan
from tests.cells.cases import assert_close
from tests.unroll.fake_device import likely
from tests.unroll.fused.cluster_interpreter import interpreter  # noqa: F401


def draw(time: int, batch: int, hidden: int):
    """What the two kernels are called with, in the order of their arguments."""
    keys = iter(jax.random.split(jax.random.key(time), 20))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    projected = (*(normal(time, batch, hidden) for _ in range(3)),)
    w_h = (normal(hidden, 3 * hidden) / hidden**0.5).astype(jnp.bfloat16)
    b_hn, start, initial = normal(hidden), normal(batch, hidden), normal(batch, hidden)
    valid, resets = (jax.random.bernoulli(next(keys), p, (time, batch)) for p in (0.7, 0.3))
    forward = (projected, w_h, b_hn, start, initial, valid, resets)

    slopes = (*(normal(time, batch, hidden).astype(jnp.bfloat16) / 3 for _ in range(3)),)
    through = jax.random.uniform(next(keys), (time, batch, hidden))
    d_states, d_last = normal(time, batch, hidden), normal(batch, hidden)
    return forward, (d_states, through, slopes, w_h.T, d_last)


@pytest.mark.parametrize(
    ("time", "batch", "hidden", "reverse"),
    [
        (1, 1, 128, False),
        (3, 17, 128, True),
        (1, 16, 128, True),
        (2, 2, 256, False),
        pytest.param(3, 2, 512, True, marks=pytest.mark.slow),
    ],
)
def test_the_pair_computes_the_reference(
    time,
    batch,
    hidden,
    reverse,
    interpreter,  # noqa: F811
):
    from gru_jax._unroll.fused.hopper.launch import pair

    ours = pair(interpret=interpreter)
    forward, backward = draw(time, batch, hidden)
    options = {"reverse": reverse, "dtype": jnp.float32}
    # Sums in another order may round to another operand of the next product.
    assert_close(
        ours.forward(*forward, **options),
        kernels.REFERENCE.forward(*forward, **options),
        "bfloat16",
    )
    assert_close(
        ours.backward(*backward, reverse=reverse),
        kernels.REFERENCE.backward(*backward, reverse=reverse),
        "bfloat16",
    )


def test_what_is_not_valid_is_held_bit_for_bit(interpreter):  # noqa: F811
    from gru_jax._unroll.fused.hopper.launch import pair

    (projected, w_h, b_hn, start, initial, _, _), _ = draw(3, 2, 128)
    never = jnp.zeros((3, 2), bool)
    run = functools.partial(pair(interpret=interpreter).forward, projected, w_h, b_hn, start)
    states, last = run(initial, never, None, reverse=False, dtype=jnp.float32)
    assert (np.asarray(states) == np.asarray(start)).all()
    assert (np.asarray(last) == np.asarray(start)).all()


def test_a_sequence_and_its_gradients(interpreter):  # noqa: F811
    from gru_jax._unroll.fused.hopper.launch import pair

    time, batch, features, hidden = 4, 3, 5, 128
    cell = gru_jax.init(jax.random.key(0), features, hidden, bias_init="torch", learned_h0=True)
    xs = jax.random.normal(jax.random.key(1), (time, batch, features)).astype(jnp.bfloat16)
    h0 = jax.random.normal(jax.random.key(2), (batch, hidden))
    starts = jax.random.bernoulli(jax.random.key(3), 0.3, (time, batch))
    controls = Controls(jnp.array([4, 0, 2]), None, starts)
    weights = jax.random.normal(jax.random.key(4), (time, batch, hidden)).astype(jnp.bfloat16)

    def by(kernels):
        def run(cell, xs, h0):
            steps = plan(xs, controls, reverse=False)
            last, ys = fused.run(cell, steps, h0, reverse=False, kernels=kernels)
            return (ys * weights).astype(jnp.float32).sum() + last.sum(), (last, ys)

        return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(cell, xs, h0)

    assert_close(by(pair(interpret=interpreter)), by(kernels.REFERENCE), "bfloat16")


H100 = "NVIDIA H100 80GB HBM3"
KERNEL = "custom_call @mosaic_gpu"
XS = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.bfloat16)


def params(hidden=256):
    return gru_jax.init(jax.random.key(0), 2, hidden, recurrent_kernel_init="torch")


def lower(function, *arguments, platforms=("cuda",)):
    jax.clear_caches()
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()


def test_a_hopper_gpu_is_given_the_kernels():
    def gradient(params, xs):
        return jax.grad(lambda params: gru_jax.unroll(params, xs)[0].sum())(params)

    with likely("gpu", H100):
        assert lower(gradient, params(), XS).count(KERNEL) == 2
        assert KERNEL not in lower(gru_jax.unroll, params(), XS, platforms=("cpu", "cuda"))
    with likely("gpu", "NVIDIA GH200 480GB", has_run=False):
        assert lower(gru_jax.unroll, params(), XS).count(KERNEL) == 1


@pytest.mark.parametrize(
    ("platform", "kind", "hidden", "dtype", "reason"),
    [
        ("cpu", "cpu", 256, "bfloat16", "this is cpu"),
        ("gpu", "NVIDIA A100-SXM4-80GB", 256, "bfloat16", "this is NVIDIA A100-SXM4-80GB"),
        ("gpu", H100, 256, "float32", "float32 inputs have to ask"),
        ("gpu", H100, 64, "bfloat16", "128, 256, 384, 512, and is 64"),
        ("gpu", H100, 640, "bfloat16", "128, 256, 384, 512, and is 640"),
    ],
)
def test_what_the_kernels_cannot_serve(platform, kind, hidden, dtype, reason):
    """By name it is refused, and otherwise served by another implementation."""
    xs = XS.astype(dtype)
    with likely(platform, kind):
        with pytest.raises(NotImplementedError, match=f"mosaic_gpu.*{reason}"):
            gru_jax.unroll(params(hidden), xs, implementation="mosaic_gpu")
        assert KERNEL not in lower(gru_jax.unroll, params(hidden), xs)


def test_without_absl_another_implementation_serves(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with likely("gpu", H100):
        with pytest.raises(NotImplementedError, match="pip install absl-py"):
            gru_jax.unroll(params(), XS, implementation="mosaic_gpu")
        assert KERNEL not in lower(gru_jax.unroll, params(), XS)
