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
from tests.assert_trees import ROUNDINGS
from tests.cells.cases import GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import ProblemSize
from tests.slow import slow_but

SIZE = ProblemSize(time=5000, batch=(4,), input=8, hidden=16)
FLOAT32_EPS = float(jnp.finfo("float32").eps)
DTYPES = ("bfloat16", "float16", "float32")
PAIRS = [(params, inputs) for params in DTYPES for inputs in DTYPES]
# The first three are one of each kind: everything saved, chunks recomputed, windows of chunks.
POLICIES = [{"checkpoint": None}, {"checkpoint": "chunk"}, {"window": 35, "checkpoint": 7}]
POLICIES += [{"checkpoint": "step"}, {"checkpoint": 8}, {"checkpoint": 1}, {"window": 8}]


@functools.partial(jax.jit, static_argnames=("implementation", "window", "checkpoint"))
def gradient(cell, xs, implementation=None, window=None, checkpoint=None):
    def loss(cell):
        options = {"implementation": implementation, "checkpoint": checkpoint}
        if window is None:
            _, ys = gru_jax.unroll(cell, xs, **options)
        else:
            _, ys = gru_jax.unroll_truncated(cell, xs, window=window, **options)
        # Not the mean, whose cotangents are smaller than float16's smallest normal number.
        return jnp.square(ys.astype(accum_dtype(ys.dtype))).sum()

    return jax.grad(loss)(cell)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def relative_errors(actual, expected):
    """The largest error of each parameter's gradient, relative to its largest element."""

    def relative_error(actual, expected):
        actual, expected = (np.asarray(leaf, np.float64) for leaf in (actual, expected))
        return np.abs(actual - expected).max() / np.abs(expected).max()

    return jax.tree.map(relative_error, actual, expected)


@functools.cache
def reference(case, params_dtype, inputs_dtype, window):
    """The cell and its inputs, the exact gradient, and the errors that are allowed.

    Those are the errors of ``lax.scan`` of the cell with float32 parameters.
    """
    with jax.enable_x64(True):
        cell, xs, _ = Problem.sample(case, SIZE).inputs("float64")
        cell, xs = cast(cell, params_dtype), xs.astype(inputs_dtype)
        exact = gradient(cast(cell, "float64"), xs.astype("float64"), "scan", window)
    scanned = gradient(cast(cell, "float32"), xs, "scan", window)
    return cell, xs, exact, relative_errors(scanned, exact)


def check(case, params_dtype, inputs_dtype, implementation, policy):
    cell, xs, exact, allowed = reference(case, params_dtype, inputs_dtype, policy.get("window"))
    actual = gradient(cell, xs, implementation, **policy)
    # Of the result, and of terms in float32 that are added up in another order.
    rounding = max(float(jnp.finfo(params_dtype).eps), ROUNDINGS["float32"] * FLOAT32_EPS)
    for (path, error), bound in zip(
        jax.tree_util.tree_leaves_with_path(relative_errors(actual, exact)),
        jax.tree.leaves(allowed),
        strict=True,
    ):
        assert error <= 2 * bound + rounding, (jax.tree_util.keystr(path), error, bound)
        assert np.isfinite(error)


@pytest.mark.parametrize("policy", slow_but(POLICIES[2:3], POLICIES[:3]), ids=str)
def test_bfloat16_parameters(policy):
    check(GRU_AFTER, "bfloat16", "bfloat16", None, policy)


@pytest.mark.slow
@pytest.mark.parametrize(("params_dtype", "inputs_dtype"), PAIRS)
def test_every_pair_of_dtypes(params_dtype, inputs_dtype):
    for policy in POLICIES:
        check(GRU_AFTER, params_dtype, inputs_dtype, "xla", policy)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_scan_of_low_precision(dtype):
    for policy in POLICIES:
        check(GRU_AFTER, dtype, dtype, "scan", policy)


@pytest.mark.slow
@pytest.mark.parametrize("case", [GRU_BEFORE, LSTM], ids=str)
def test_other_cells(case):
    for policy in ({"checkpoint": "chunk"}, {"window": 8}):
        check(case, "bfloat16", "bfloat16", None, policy)
