"""The sequential part of the backward pass: a scan for the cotangents of the states.

Between two steps the cotangents obey a linear recurrence, whose coefficients are known for all
steps before it is solved.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import StepGraph
from gru_jax._unroll.backward.jacobian import (
    ElementwiseJacobian,
    Leaves,
    cotangent_of_input,
    preactivation_cotangent,
)
from gru_jax._unroll.carry import match_carry_sharding
from gru_jax._unroll.masking import tree_where
from gru_jax.cells.linear import dot
from gru_jax.typing import Array


class AdjointRecurrence(NamedTuple):
    """Coefficients of the recurrence, of all steps of a chunk."""

    # For each matmul, by output: derivatives by its preactivations, (T, *batch, k, H).
    preactivation_jacobian: list[dict[int, Array]]
    # For each output, by state leaf: the derivative past the matmuls, (T, *batch, H).
    state_jacobian: ElementwiseJacobian
    d_from_outputs: dict[int, Array]  # by state leaf: the cotangent from the step's own output
    resets: Array | None  # (T, *batch), see ScanInputs


# Cotangents of the state before all steps, and of each step's outputs, (T, *batch, H).
AdjointResult: TypeAlias = tuple[Leaves, dict[int, Array]]
# Solves a recurrence with the transposed weights of each matmul; called as adjoint_scan is.
AdjointScan: TypeAlias = Callable[..., AdjointResult]
# ``lax.scan`` of ``body(consts, carry, x)``, with ScanConsts: called as lax_scan is.
ScanFn: TypeAlias = Callable[..., tuple[Any, Any]]


class ScanConsts(NamedTuple):
    """What every step of a scan reads."""

    shared: Any  # by all sequences, such as weights
    batched: Any = None  # leaves (batch, ...)


def lax_scan(body: Any, consts: Any, init: Any, xs: Any, *, reverse: bool) -> tuple[Any, Any]:
    """The scan of JAX."""
    return lax.scan(lambda carry, x: body(consts, carry, x), init, xs, reverse=reverse)


def adjoint_scan(
    graph: StepGraph,
    weights_t: Leaves,
    recurrence: AdjointRecurrence,
    d_last: Leaves,
    *,
    reverse: bool,
    scan_fn: ScanFn = lax_scan,
) -> AdjointResult:
    """The ``AdjointScan`` for every affine cell."""

    def body(consts: ScanConsts, d_new: Leaves, step: AdjointRecurrence) -> tuple[Leaves, Leaves]:
        return _adjoint_step(graph, consts.shared, d_new, step)

    consts = ScanConsts(weights_t)
    first = jax.tree.map(lambda leaf: leaf[0], recurrence)
    d_last = match_carry_sharding(lambda d_last: body(consts, d_last, first)[0], d_last)
    d_first, d_outputs = scan_fn(body, consts, d_last, recurrence, reverse=reverse)
    return d_first, dict(enumerate(d_outputs))


def _adjoint_step(
    graph: StepGraph, weights_t: Leaves, d_new: Leaves, step: AdjointRecurrence
) -> tuple[Leaves, Leaves]:
    """The cotangents before one step, and those of its outputs."""
    preactivation_jacobian, state_jacobian, d_from_outputs, reset = step
    d_outputs = dict(enumerate(d_new))
    d_outputs |= {leaf: d_outputs[leaf] + d for leaf, d in d_from_outputs.items()}
    d_previous = [
        cotangent_of_input(state_jacobian, d_outputs, leaf) for leaf in range(graph.num_states)
    ]
    for matmul in reversed(range(len(graph.num_splits))):
        d_preactivations = preactivation_cotangent(preactivation_jacobian[matmul], d_outputs)
        d_operand = dot(d_preactivations, weights_t[matmul])
        leaf = graph.operand_state_leaf[matmul]
        if leaf is not None:
            d_previous[leaf] += d_operand
            continue
        slot = graph.operand_slot(matmul)
        d_outputs[slot] = d_operand
        for leaf in range(graph.num_states):
            if leaf in state_jacobian[slot]:
                d_previous[leaf] += state_jacobian[slot][leaf] * d_operand
    if reset is not None:
        d_previous = tree_where(reset, [jnp.zeros_like(d) for d in d_previous], d_previous)
    return d_previous, [d_outputs[slot] for slot in sorted(d_outputs)]
