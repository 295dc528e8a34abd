"""The matrix products of a GRU and nothing else: what the arithmetic between them is held to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bench.baselines import Contender, Problem, make_problem
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import Spread, interleave

LARGE = 2048


def products(problem: Problem) -> Contender:
    """All products; its gradient is those of the forward pass and of the gradient."""
    arrays = jax.tree.map(jnp.asarray, (problem.params.w_x, problem.params.w_h, problem.xs))

    @jax.jit
    def forward(w_x: jax.Array, w_h: jax.Array, xs: jax.Array) -> Any:
        return xs @ w_x, _recur(w_h, problem.size)[0]

    @jax.jit
    def gradient(w_x: jax.Array, w_h: jax.Array, xs: jax.Array) -> Any:
        gates = _rows(_recur(w_h, problem.size)[1])
        states = _rows(_recur_back(w_h, problem.size))
        return xs @ w_x, states.T @ gates, _rows(xs).T @ gates, gates @ w_x.T

    return Contender(
        forward=lambda: jax.block_until_ready(forward(*arrays)),
        gradient=lambda: jax.block_until_ready(gradient(*arrays)),
        outputs=lambda: np.zeros(()),
        input_gradient=None,
        params=problem.params,
    )


def time_parts(size: ProblemSize, seconds: float) -> dict[str, Spread]:
    """Times each kind of product by itself, and a large square one for the machine's rate.

    Returns:
        By product, milliseconds as :func:`interleave` gives them, and "gflops", 10^9
        multiplications and additions a second.
    """
    problem = make_problem(size)
    w_x, w_h, xs = jax.tree.map(jnp.asarray, (problem.params.w_x, problem.params.w_h, problem.xs))
    xs = _rows(xs)
    gates, states = _rows(_recur(w_h, size)[1]), _rows(_recur_back(w_h, size))
    square = jnp.ones((LARGE, LARGE)) / LARGE
    rows, inner, outer = len(xs), size.hidden, 3 * size.hidden
    parts: dict[str, tuple[int, Callable[..., Any], tuple[jax.Array, ...]]] = {
        "x W": (rows * size.input * outer, jnp.matmul, (xs, w_x)),
        "h U, step by step": (rows * inner * outer, lambda u: _recur(u, size)[0], (w_h,)),
        "d U^T, step by step": (rows * inner * outer, lambda u: _recur_back(u, size), (w_h,)),
        "h^T d": (rows * inner * outer, lambda h, d: h.T @ d, (states, gates)),
        "x^T d": (rows * size.input * outer, lambda x, d: x.T @ d, (xs, gates)),
        "d W^T": (rows * size.input * outer, lambda d, w: d @ w.T, (gates, w_x)),
        f"{LARGE} x {LARGE} x {LARGE}": (LARGE**3, jnp.matmul, (square, square)),
    }
    times = interleave(
        {name: _compiled(run, arrays) for name, (_, run, arrays) in parts.items()},
        seconds=seconds,
    )
    return {
        name: {**spread, "gflops": 2e-6 * parts[name][0] / spread["median"]}
        for name, spread in times.items()
    }


def _compiled(run: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> Callable[[], Any]:
    compiled = jax.jit(run)
    return lambda: jax.block_until_ready(compiled(*arrays))


def _recur(w_h: jax.Array, size: ProblemSize) -> tuple[jax.Array, jax.Array]:
    def step(h: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        gates = h @ w_h
        # Halved, so that nothing grows beyond what a float32 holds.
        return gates[:, : size.hidden] * 0.5, gates

    return lax.scan(step, jnp.ones((size.batch, size.hidden)), None, length=size.time)


def _recur_back(w_h: jax.Array, size: ProblemSize) -> jax.Array:
    transposed = w_h.T

    def step(gates: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        h = gates @ transposed
        return jnp.concatenate([h, h, h], axis=-1) * 0.5, h

    return lax.scan(step, jnp.ones((size.batch, 3 * size.hidden)), None, length=size.time)[1]


def _rows(array: jax.Array) -> jax.Array:
    return array.reshape(-1, array.shape[-1])
