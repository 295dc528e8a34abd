"""The kernels for Hopper GPUs: values, gradients and races (interpreted), and dispatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._autodiff.step_graph import node_types
from gru_jax._unroll.call_spec import CallOptions, make_call_spec
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs
from gru_jax._unroll.fused.reference_kernels import REFERENCE_KERNELS
from gru_jax._unroll.masking import make_scan_inputs
from gru_jax._unroll.validation import SequenceControls
from tests.assert_trees import assert_close
from tests.unroll.fake_device import fake_default_device
from tests.unroll.fused.cluster_interpreter import interpreter  # noqa: F401
from tests.unroll.fused.kernel_harness import as_relu_gru


def sample_args(time: int, batch: int, hidden: int) -> tuple[ForwardArgs, BackwardArgs]:
    """Random arguments of the two kernels."""
    keys = iter(jax.random.split(jax.random.key(time), 20))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    projected = (*(normal(time, batch, hidden) for _ in range(3)),)
    w_h = (normal(hidden, 3 * hidden) / hidden**0.5).astype(jnp.bfloat16)
    b_hn, h0, reset_state = normal(hidden), normal(batch, hidden), normal(batch, hidden)
    valid, resets = (jax.random.bernoulli(next(keys), p, (time, batch)) for p in (0.7, 0.3))
    forward_args = ForwardArgs(projected, w_h, b_hn, h0, reset_state, valid, resets)

    gate_jacobians = (*(normal(time, batch, hidden).astype(jnp.bfloat16) / 3 for _ in range(3)),)
    state_jacobian = jax.random.uniform(next(keys), (time, batch, hidden))
    d_ys, d_h_last = normal(time, batch, hidden), normal(batch, hidden)
    return forward_args, BackwardArgs(d_ys, state_jacobian, gate_jacobians, w_h.T, d_h_last)


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
def test_the_kernels_compute_the_reference(
    time,
    batch,
    hidden,
    reverse,
    interpreter,  # noqa: F811
):
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    kernels = make_kernels(interpret=interpreter)
    forward_args, backward_args = sample_args(time, batch, hidden)
    options = {"reverse": reverse, "dtype": jnp.float32}
    # Sums in another order may round to another operand of the next matmul.
    assert_close(
        kernels.forward(forward_args, **options),
        REFERENCE_KERNELS.forward(forward_args, **options),
        "bfloat16",
    )
    assert_close(
        kernels.backward(backward_args, reverse=reverse),
        REFERENCE_KERNELS.backward(backward_args, reverse=reverse),
        "bfloat16",
    )


def test_a_masked_step_holds_the_state_bit_for_bit(interpreter):  # noqa: F811
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    args, _ = sample_args(3, 2, 128)
    args = args._replace(valid=jnp.zeros((3, 2), bool), resets=None)
    kernels = make_kernels(interpret=interpreter)
    states, h_last = kernels.forward(args, reverse=False, dtype=jnp.float32)
    assert (np.asarray(states) == np.asarray(args.h0)).all()
    assert (np.asarray(h_last) == np.asarray(args.h0)).all()


def test_a_sequence_and_its_gradients(interpreter):  # noqa: F811
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    time, batch, features, hidden = 4, 3, 5, 128
    cell = gru_jax.init(jax.random.key(0), features, hidden, bias_init="torch", learned_h0=True)
    xs = jax.random.normal(jax.random.key(1), (time, batch, features)).astype(jnp.bfloat16)
    h0 = jax.random.normal(jax.random.key(2), (batch, hidden))
    starts = jax.random.bernoulli(jax.random.key(3), 0.3, (time, batch))
    controls = SequenceControls(jnp.array([4, 0, 2]), None, starts)
    weights = jax.random.normal(jax.random.key(4), (time, batch, hidden)).astype(jnp.bfloat16)
    options = CallOptions(node_types(cell), requested="mosaic_gpu")
    spec = make_call_spec(cell, xs, h0, options)

    def by(kernels):
        def run(cell, xs, h0):
            inputs = make_scan_inputs(xs, controls, reverse=False)
            h_last, ys = fused.run(spec, cell, inputs, h0, reverse=False, kernels=kernels)
            return (ys * weights).astype(jnp.float32).sum() + h_last.sum(), (h_last, ys)

        return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(cell, xs, h0)

    assert_close(by(make_kernels(interpret=interpreter)), by(REFERENCE_KERNELS), "bfloat16")


H100 = "NVIDIA H100 80GB HBM3"
KERNEL = "custom_call @mosaic_gpu"
XS = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.bfloat16)


def params(hidden=256):
    return gru_jax.init(jax.random.key(0), 2, hidden, recurrent_kernel_init="torch")


def lower(function, *arguments, platforms=("cuda",)):
    jax.clear_caches()
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()


def test_a_hopper_gpu_gets_the_kernels():
    def gradient(params, xs):
        return jax.grad(lambda params: gru_jax.unroll(params, xs)[0].sum())(params)

    with fake_default_device("gpu", H100):
        assert lower(gradient, params(), XS).count(KERNEL) == 2
        assert KERNEL not in lower(gru_jax.unroll, params(), XS, platforms=("cpu", "cuda"))
    with fake_default_device("gpu", "NVIDIA GH200 480GB", is_verified=False):
        assert lower(gru_jax.unroll, params(), XS).count(KERNEL) == 1


@pytest.mark.parametrize(
    ("platform", "kind", "hidden", "dtype", "reason"),
    [
        ("cpu", "cpu", 256, "bfloat16", "needs a Hopper GPU, but the default device is a CPU"),
        (
            "gpu",
            "NVIDIA A100-SXM4-80GB",
            256,
            "bfloat16",
            "but the default device is NVIDIA A100-SXM4-80GB",
        ),
        ("gpu", H100, 256, "float32", "float32 inputs require"),
        ("gpu", H100, 224, "bfloat16", "128, 256, 384, 512, got 224"),
        ("gpu", H100, 640, "bfloat16", "128, 256, 384, 512, got 640"),
    ],
)
def test_unsupported_calls(platform, kind, hidden, dtype, reason):
    """An explicit request raises; the default is another implementation."""
    cell, xs = jax.eval_shape(lambda: params(hidden)), XS.astype(dtype)
    with fake_default_device(platform, kind):
        with pytest.raises(NotImplementedError, match=f"mosaic_gpu.*{reason}"):
            gru_jax.explain(cell, xs, implementation="mosaic_gpu")
        explanation = gru_jax.explain(cell, xs)
    assert explanation.implementation == "xla"
    assert reason in "; ".join(explanation.reasons["mosaic_gpu"])


def test_every_reason_is_given():
    with fake_default_device("gpu", "NVIDIA A100-SXM4-80GB", count=2):
        explanation = gru_jax.explain(jax.eval_shape(lambda: params(64)), XS.astype("float16"))
    reasons = [
        text for text in explanation.reasons["mosaic_gpu"] if text.startswith("Hopper kernels: ")
    ]
    for reason in ("A100", "got float16", "got 64"):
        (found,) = [text for text in reasons if reason in text]
        reasons.remove(found)
    assert not reasons


def test_the_reasons_of_both_kernels_are_given_on_a_cpu():
    cell = jax.eval_shape(lambda: params(64))
    reasons = gru_jax.explain(cell, XS.astype("float32")).reasons["mosaic_gpu"]
    text = "; ".join(reasons)
    assert "Hopper kernels: the hidden size must be one of 128, 256, 384, 512, got 64" in text
    assert "one-block kernels: it is not yet verified" in text
    assert "one-block kernels: the hidden size" not in text
    assert len(set(reasons)) == len(reasons)


def test_reasons_of_both_kernels_are_given_once():
    cell = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), 3, 64, reset="before"))
    reasons = gru_jax.explain(cell, jnp.zeros((4, 9, 3))).reasons["mosaic_gpu"]
    assert [text for text in reasons if 'reset="after"' in text] == [
        'it supports only reset="after", got reset="before", whose step has two matmuls in sequence'
    ]


def test_a_subclass_that_overrides_the_step_is_another_cell():
    """Its values are its own by default, and an explicit request raises."""
    cell = as_relu_gru(params())
    expected = gru_jax.unroll(cell, XS, implementation="scan")
    with fake_default_device("gpu", H100):
        assert KERNEL not in lower(gru_jax.unroll, cell, XS)
        with pytest.raises(NotImplementedError, match=r"supports only GRUParams.*got ReluGRU"):
            gru_jax.unroll(cell, XS, implementation="mosaic_gpu")
        assert_close(gru_jax.unroll(cell, XS), expected, "bfloat16")


def test_without_absl_the_default_is_another_implementation(assume_packages):
    assume_packages("absl", installed=False)
    with fake_default_device("gpu", H100):
        with pytest.raises(NotImplementedError, match="pip install absl-py"):
            gru_jax.unroll(params(), XS, implementation="mosaic_gpu")
        assert KERNEL not in lower(gru_jax.unroll, params(), XS)
