"""The matmuls of a GRU without anything else: a lower bound of its time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bench.baselines import Implementation, Problem, make_problem
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import Summary, time_interleaved

LARGE = 2048


def matmul_only(problem: Problem) -> Implementation:
    """The matmuls of the forward pass; its gradient is the matmuls of both passes."""
    arrays = jax.tree.map(jnp.asarray, (problem.params.w_x, problem.params.w_h, problem.xs))

    @jax.jit
    def forward(w_x: jax.Array, w_h: jax.Array, xs: jax.Array) -> Any:
        return xs @ w_x, _scan_forward(w_h, problem.size)[0]

    @jax.jit
    def gradient(w_x: jax.Array, w_h: jax.Array, xs: jax.Array) -> Any:
        gates = _flatten_time_batch(_scan_forward(w_h, problem.size)[1])
        states = _flatten_time_batch(_scan_backward(w_h, problem.size))
        return xs @ w_x, states.T @ gates, _flatten_time_batch(xs).T @ gates, gates @ w_x.T

    return Implementation(
        forward=lambda: jax.block_until_ready(forward(*arrays)),
        gradient=lambda: jax.block_until_ready(gradient(*arrays)),
        outputs=lambda: np.zeros(()),
        input_gradient=None,
        params=problem.params,
    )


def time_matmuls(size: ProblemSize, seconds: float) -> dict[str, Summary]:
    """Times each matmul by itself, and a large square one for the machine's peak rate.

    Returns:
        By matmul, milliseconds as :func:`time_interleaved` returns them, and "gflops", GFLOP/s.
    """
    problem = make_problem(size)
    w_x, w_h, xs = jax.tree.map(jnp.asarray, (problem.params.w_x, problem.params.w_h, problem.xs))
    xs = _flatten_time_batch(xs)
    gates, states = (
        _flatten_time_batch(_scan_forward(w_h, size)[1]),
        _flatten_time_batch(_scan_backward(w_h, size)),
    )
    square = jnp.ones((LARGE, LARGE)) / LARGE
    rows, inner, outer = len(xs), size.hidden, 3 * size.hidden
    matmuls: dict[str, tuple[int, Callable[..., Any], tuple[jax.Array, ...]]] = {
        "x W": (rows * size.input * outer, jnp.matmul, (xs, w_x)),
        "h U, step by step": (rows * inner * outer, lambda u: _scan_forward(u, size)[0], (w_h,)),
        "d U^T, step by step": (rows * inner * outer, lambda u: _scan_backward(u, size), (w_h,)),
        "h^T d": (rows * inner * outer, lambda h, d: h.T @ d, (states, gates)),
        "x^T d": (rows * size.input * outer, lambda x, d: x.T @ d, (xs, gates)),
        "d W^T": (rows * size.input * outer, lambda d, w: d @ w.T, (gates, w_x)),
        f"{LARGE} x {LARGE} x {LARGE}": (LARGE**3, jnp.matmul, (square, square)),
    }
    times = time_interleaved(
        {name: _compiled(run, arrays) for name, (_, run, arrays) in matmuls.items()},
        seconds=seconds,
    )
    return {
        name: {**summary, "gflops": 2e-6 * matmuls[name][0] / summary["median"]}
        for name, summary in times.items()
    }


def _compiled(run: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> Callable[[], Any]:
    compiled = jax.jit(run)
    return lambda: jax.block_until_ready(compiled(*arrays))


def _scan_forward(w_h: jax.Array, size: ProblemSize) -> tuple[jax.Array, jax.Array]:
    def step(h: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        gates = h @ w_h
        # Halved, so that states do not overflow float32.
        return gates[:, : size.hidden] * 0.5, gates

    return lax.scan(step, jnp.ones((size.batch, size.hidden)), None, length=size.time)


def _scan_backward(w_h: jax.Array, size: ProblemSize) -> jax.Array:
    transposed = w_h.T

    def step(gates: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        h = gates @ transposed
        return jnp.concatenate([h, h, h], axis=-1) * 0.5, h

    return lax.scan(step, jnp.ones((size.batch, 3 * size.hidden)), None, length=size.time)[1]


def _flatten_time_batch(array: jax.Array) -> jax.Array:
    return array.reshape(-1, array.shape[-1])
