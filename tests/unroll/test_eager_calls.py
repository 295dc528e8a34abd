"""Outside of a jit each shape is compiled once, and memory does not grow from call to call."""

import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.slow import slow

TIME, BATCH, SIZE = 6, 3, 2
PARAMS = gru_jax.init(jax.random.key(0), SIZE, SIZE, bias_init="torch", learned_h0=True)
XS = jax.random.normal(jax.random.key(1), (TIME, BATCH, SIZE))
CONTROLS = {
    "lengths": np.array([6, 0, 3]),
    "mask": np.arange(TIME * BATCH).reshape(TIME, BATCH) % 5 > 0,
    "starts": np.arange(TIME * BATCH).reshape(TIME, BATCH) % 4 == 0,
}


def value(params, **options):
    return gru_jax.unroll(params, XS, **options)[1].sum()


def gradient(params, **options):
    return jax.grad(lambda params: value(params, **options))(params)


def jvp(params, **options):
    return jax.jvp(lambda params: value(params, **options), (params,), (params,))


def truncated_gradient(params, **options):
    def loss(params):
        return gru_jax.unroll_truncated(params, XS, window=4, **options)[1].sum()

    return jax.grad(loss)(params)


def stack_gradient(params, **options):
    stack = gru_jax.Stack(((params, params), (params, params)), merge="sum")
    return jax.grad(lambda stack: gru_jax.unroll_stack(stack, XS, **options)[1].sum())(stack)


compilations = 0


def count_compilations(event: str, duration: float, **_) -> None:
    global compilations
    compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count_compilations)


@contextlib.contextmanager
def no_compilation():
    before = compilations
    yield
    assert compilations == before


def test_a_compilation_is_counted():
    with pytest.raises(AssertionError), no_compilation():
        jax.jit(lambda x: x + 1)(XS)


OPTIONS = [CONTROLS, {}, {"reverse": True}, {"implementation": "scan"}, {"checkpoint": "chunk"}]
OPTIONS += [{"checkpoint": "step"}, {"checkpoint": 4}, CONTROLS | {"checkpoint": "chunk"}]
CASES = [
    (gradient, CONTROLS),
    (gradient, {"implementation": "scan", "checkpoint": "chunk"}),
    (jvp, CONTROLS),
    *(slow(function, options) for function in (value, gradient, jvp) for options in OPTIONS),
    slow(truncated_gradient, CONTROLS),
    slow(stack_gradient, CONTROLS),
]


@pytest.mark.parametrize(("function", "options"), CASES)
def test_other_values_are_not_compiled_again(function, options):
    other = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    jax.block_until_ready(function(PARAMS, **options))
    with no_compilation():
        for params in (other, PARAMS):
            jax.block_until_ready(function(params, **options))


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_calls():
    resource = pytest.importorskip("resource")
    arrays = {name: jnp.asarray(control) for name, control in CONTROLS.items()}

    def peak_mebibytes():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    for call in range(1100):
        jax.block_until_ready(gradient(PARAMS, **arrays))
        if call == 100:
            before = peak_mebibytes()
    assert peak_mebibytes() - before < 8
