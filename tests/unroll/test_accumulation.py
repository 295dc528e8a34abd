"""Gradients of low-precision parameters accumulate in float32, whatever is rerun or truncated.

A long sequence shows it: cotangents that are added up over windows in bfloat16 stop growing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax.cells.linear import accum_dtype
from tests.cells.cases import GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import Shape

SHAPE = Shape(time=5000, batch=(4,), input=8, hidden=16)
DTYPES = ("bfloat16", "float16", "float32")
PAIRS = [(params, inputs) for params in DTYPES for inputs in DTYPES]
POLICIES = [{"checkpoint": policy} for policy in (None, "step", "chunk", 8, 1)]
POLICIES += [{"window": 8}, {"window": 35, "checkpoint": 7}]


@functools.partial(jax.jit, static_argnames=("implementation", "window", "checkpoint"))
def gradient(cell, xs, implementation=None, window=None, checkpoint=None):
    def loss(cell):
        options = {"implementation": implementation, "checkpoint": checkpoint}
        if window is None:
            _, ys = gru_jax.unroll(cell, xs, **options)
        else:
            _, ys = gru_jax.unroll_truncated(cell, xs, window=window, **options)
        return jnp.square(ys.astype(accum_dtype(ys.dtype))).mean()

    return jax.grad(loss)(cell)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def errors(actual, expected):
    """The largest error of each parameter's gradient, relative to its largest element."""
    return jax.tree.map(
        lambda a, e: float(jnp.abs(a.astype(e.dtype) - e).max() / jnp.abs(e).max()),
        actual,
        expected,
    )


def check(case, params_dtype, inputs_dtype, implementation, policy):
    with jax.enable_x64(True):
        cell, xs, _ = Problem.draw(case, SHAPE).inputs("float64")
        cell, xs = cast(cell, params_dtype), xs.astype(inputs_dtype)
        window = policy.get("window")
        expected = gradient(cast(cell, "float64"), xs.astype("float64"), "scan", window)
    actual = gradient(cell, xs, implementation, **policy)
    # What lax.scan of the cell with float32 parameters has, and the rounding of the result.
    allowed = errors(gradient(cast(cell, "float32"), xs, "scan", window), expected)
    rounding = float(jnp.finfo(params_dtype).eps)
    for (path, error), bound in zip(
        jax.tree_util.tree_leaves_with_path(errors(actual, expected)),
        jax.tree.leaves(allowed),
        strict=True,
    ):
        assert error <= 2 * bound + rounding, (jax.tree_util.keystr(path), error, bound)
        assert np.isfinite(error)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_bfloat16_parameters(policy):
    check(GRU_AFTER, "bfloat16", "bfloat16", None, policy)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["xla", "scan"])
@pytest.mark.parametrize(("params_dtype", "inputs_dtype"), PAIRS)
def test_every_pair_of_dtypes(params_dtype, inputs_dtype, implementation):
    for policy in POLICIES:
        check(GRU_AFTER, params_dtype, inputs_dtype, implementation, policy)


@pytest.mark.slow
@pytest.mark.parametrize("case", [GRU_BEFORE, LSTM], ids=str)
def test_other_cells(case):
    for policy in ({"checkpoint": "chunk"}, {"window": 8}):
        check(case, "bfloat16", "bfloat16", None, policy)
