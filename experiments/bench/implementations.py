"""All that is timed, by name: ours, the products alone, and the peers that are installed."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.bench.baselines import PEERS, Contender, Problem, installed_peers, ours
from experiments.bench.matmul_bound import products
from experiments.errors import UserError

OURS = {
    "gru_jax": {},
    "gru_jax, recompute": {"checkpoint": "step"},
    "gru_jax, chunks": {"checkpoint": "chunk"},
    "gru_jax, scan": {"implementation": "scan"},
}
PRODUCTS = "products alone"


def known_contenders() -> dict[str, str]:
    """The names of all that can be timed here, each with its version."""
    return {**dict.fromkeys((*OURS, PRODUCTS), "this checkout"), **installed_peers()}


def make_contender(name: str, problem: Problem) -> Contender:
    """Makes a contender ready for a problem."""
    if name in OURS:
        return ours(problem, **OURS[name])
    return products(problem) if name == PRODUCTS else PEERS[name][1](problem)


def make_contenders(names: Iterable[str], problem: Problem) -> dict[str, Contender]:
    """Makes contenders ready, and holds their outputs and gradients against ours.

    Raises:
        UserError: where one computes something else.
    """
    contenders = {name: make_contender(name, problem) for name in names}
    for name, contender in contenders.items():
        if name != PRODUCTS:
            _check(name, contender, problem)
    return contenders


def _check(name: str, contender: Contender, problem: Problem) -> None:
    params, xs, weights = jax.tree.map(jnp.asarray, (contender.params, problem.xs, problem.weights))

    def loss(xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        ys = gru_jax.unroll(params, xs, implementation="scan")[1]
        return jnp.sum(ys * weights), ys

    (_, ys), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(xs)
    compare(f"The outputs of {name}", contender.outputs(), ys)
    if contender.input_gradient is not None:
        compare(f"The gradients of {name}", contender.input_gradient(), gradient)


def compare(what: str, came: np.ndarray, expected: jax.Array) -> None:
    """Raises UserError where an array is not ours to float32 rounding."""
    error = float(np.abs(came - np.asarray(expected)).max() / np.abs(expected).max())
    if not error < 1e-3:
        raise UserError(f"{what} differ from ours by {error:.1e} of the largest; not timed.")
