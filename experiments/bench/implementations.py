"""All implementations by name: ours, the matmuls without the rest, and installed baselines."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.bench.baselines import (
    BASELINES,
    Implementation,
    Problem,
    installed_baselines,
    own_implementation,
)
from experiments.bench.matmul_bound import matmul_only
from experiments.errors import UserError

OURS = {
    "gru_jax": {},
    "gru_jax, recompute": {"checkpoint": "step"},
    "gru_jax, chunks": {"checkpoint": "chunk"},
    "gru_jax, scan": {"implementation": "scan"},
}
MATMUL_ONLY = "matmul only"


def known_implementations() -> dict[str, str]:
    """The names of all implementations that can be timed here, each with its version."""
    return {**dict.fromkeys((*OURS, MATMUL_ONLY), "this checkout"), **installed_baselines()}


def make_implementation(name: str, problem: Problem) -> Implementation:
    """Makes an implementation for a problem."""
    if name in OURS:
        return own_implementation(problem, **OURS[name])
    return matmul_only(problem) if name == MATMUL_ONLY else BASELINES[name][1](problem)


def make_implementations(names: Iterable[str], problem: Problem) -> dict[str, Implementation]:
    """Makes implementations and compares their outputs and gradients with ours.

    Raises:
        UserError: if one computes another function.
    """
    implementations = {name: make_implementation(name, problem) for name in names}
    for name, implementation in implementations.items():
        if name != MATMUL_ONLY:
            _check(name, implementation, problem)
    return implementations


def _check(name: str, implementation: Implementation, problem: Problem) -> None:
    params, xs, weights = jax.tree.map(
        jnp.asarray, (implementation.params, problem.xs, problem.weights)
    )

    def loss(xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        ys = gru_jax.unroll(params, xs, implementation="scan")[1]
        return jnp.sum(ys * weights), ys

    (_, ys), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(xs)
    compare(f"The outputs of {name}", implementation.outputs(), ys)
    if implementation.input_gradient is not None:
        compare(f"The gradients of {name}", implementation.input_gradient(), gradient)


def compare(what: str, actual: np.ndarray, expected: jax.Array) -> None:
    """Raises UserError if an array differs from ours by more than float32 rounding."""
    error = float(np.abs(actual - np.asarray(expected)).max() / np.abs(expected).max())
    if not error < 1e-3:
        raise UserError(
            f"{what} differ from ours by {error:.1e} of the largest element; nothing is timed."
        )
