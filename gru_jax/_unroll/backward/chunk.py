"""Backward pass of one chunk of time steps.

Only the state cotangents need a sequential scan; every other gradient is computed for all steps at
once. Notation: T steps of the chunk, B the batch axes, H units, k preactivations of a matmul.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import StepGraph, replay, run_step
from gru_jax._unroll.backward.adjoint_scan import (
    AdjointRecurrence,
    AdjointScan,
    ElementwiseJacobian,
    cotangent_of_input,
    preactivation_cotangent,
)
from gru_jax._unroll.backward.residuals import Leaves, Residuals
from gru_jax._unroll.call_spec import is_static_shape
from gru_jax._unroll.masking import ScanInputs, broadcast_mask, mask_outputs, tree_where
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import accum_dtype
from gru_jax.cells.precision import cast_params, promote_state
from gru_jax.typing import Array, DType, State


class Cotangents(NamedTuple):
    """What is accumulated from chunk to chunk.

    Attributes:
        state: of the state before the chunk, its leaves.
        reset_state: of the state that resets put in, its leaves; None without resets.
        weights: of the recurrent weights, one array per matmul.
        cell: of all other parameters.
    """

    state: Leaves
    reset_state: Leaves | None
    weights: Leaves
    cell: AffineCell


class Chunk(NamedTuple):
    """Some steps: their inputs, residuals, output cotangents, and the state before them."""

    inputs: ScanInputs
    residuals: Residuals
    d_ys: Array
    state_before: State


@dataclasses.dataclass(frozen=True)
class XlaHints:
    """How XLA should lay out the arrays of a chunk; values do not depend on it.

    Attributes:
        materialize: whether the cotangents of the preactivations are written one by one before they
            are joined: XLA:CPU joins arrays fast, but not if it computes them on the way.
        max_transposed_ratio: rows for each column of a weight gradient up to which the operand is
            written transposed: XLA:CPU's other matmul routine is faster, except for tall and narrow
            operands.
    """

    materialize: bool = False
    max_transposed_ratio: int = 0

    def weight_gradient(self, operand: Array, d_preactivations: Array, dtype: DType) -> Array:
        """``operand^T @ d_preactivations`` in ``dtype``, accumulated in float32 at least."""
        operand_t = operand.astype(dtype).T
        rows, columns = d_preactivations.shape
        if is_static_shape((rows, columns)) and 0 < rows <= self.max_transposed_ratio * columns:
            operand_t = lax.optimization_barrier(operand_t)
        out = accum_dtype(dtype)
        return jnp.matmul(operand_t, d_preactivations.astype(dtype), preferred_element_type=out)


NO_HINTS = XlaHints()


def chunk_backward(
    cell: AffineCell,
    graph: StepGraph,
    weights_t: Leaves,
    reset_state: State,
    carry: Cotangents,
    chunk: Chunk,
    *,
    reverse: bool,
    adjoint_scan: AdjointScan,
    hints: XlaHints,
) -> tuple[Cotangents, Array]:
    """Cotangents before a chunk, and those of its inputs (T, *batch, D).

    Args:
        cell, graph: the parameters, and the graph of a step.
        weights_t: the transposed weights of each matmul.
        reset_state: the state that resets put in.
        carry: cotangents from the chunks after this one.
        chunk: the steps.
        reverse: the direction of the forward pass.
        adjoint_scan: solves the recurrence of the state cotangents.
        hints: see there.
    """
    scan_inputs, dtype = chunk.inputs, chunk.inputs.xs.dtype
    compute_cell = cast_params(cell, dtype)
    inputs = _elementwise_inputs(compute_cell, graph, reset_state, chunk, reverse=reverse)
    jacobian = graph.elementwise_jacobian(compute_cell, inputs)
    if scan_inputs.valid is not None:
        jacobian = _mask_jacobian(jacobian, scan_inputs.valid, inputs[: graph.num_states])
    d_cell_outputs, d_from_outputs = _output_vjp(cell, graph, chunk)
    matmuls = range(len(graph.num_splits))
    recurrence = AdjointRecurrence(
        preactivation_jacobian=[
            _stack_jacobian(jacobian, graph.preactivation_slots(matmul)) for matmul in matmuls
        ],
        state_jacobian=[
            {slot: row[slot] for slot in row if slot < graph.num_states} for row in jacobian
        ],
        d_from_outputs=d_from_outputs,
        resets=scan_inputs.resets,
    )
    (d_state, d_reset_state), d_outputs = adjoint_scan(
        graph, weights_t, recurrence, (carry.state, carry.reset_state), reverse=not reverse
    )

    # From here on time and batch are one axis: XLA lays out a matmul that contracts two badly.
    d_joined = _flatten_time_batch(
        [preactivation_cotangent(of, d_outputs) for of in recurrence.preactivation_jacobian]
    )
    operands = _flatten_time_batch(graph.elementwise(compute_cell, inputs)[1])
    d_weights = [
        total + hints.weight_gradient(operand, d, dtype)
        for total, operand, d in zip(carry.weights, operands, d_joined, strict=True)
    ]

    def cotangents_of(slots: range) -> Leaves:
        return _flatten_time_batch([cotangent_of_input(jacobian, d_outputs, s) for s in slots])

    d_elementwise = cotangents_of(graph.elementwise_slots)
    if hints.materialize:
        d_preactivations, d_elementwise = lax.optimization_barrier(
            ([cotangents_of(graph.preactivation_slots(m)) for m in matmuls], d_elementwise)
        )
    else:
        d_preactivations = [
            jnp.split(d, splits, axis=-1)
            for d, splits in zip(d_joined, graph.num_splits, strict=True)
        ]
    d_biases = [
        jnp.split(jnp.sum(d, axis=0), splits)
        for d, splits in zip(d_joined, graph.num_splits, strict=True)
    ]
    d_cell_inputs, d_xs = _projection_vjp(
        cell,
        graph,
        _flatten_time_batch(inputs),
        scan_inputs.xs,
        d_preactivations,
        d_biases,
        d_elementwise,
    )
    d_cell = jax.tree.map(lambda *d: sum(d[1:], d[0]), carry.cell, d_cell_inputs, d_cell_outputs)
    return Cotangents(d_state, d_reset_state, d_weights, d_cell), d_xs


def _elementwise_inputs(
    compute_cell: AffineCell,
    graph: StepGraph,
    reset_state: State,
    chunk: Chunk,
    *,
    reverse: bool,
) -> Leaves:
    """The inputs of the cell's elementwise part, see :class:`StepGraph`."""
    scan_inputs, residuals = chunk.inputs, chunk.residuals
    previous = jax.tree.map(
        lambda before, states: _previous_states(before, states, reverse=reverse),
        chunk.state_before,
        residuals.states,
    )
    if scan_inputs.resets is not None:
        everywhere = jax.tree.map(lambda r, h: jnp.broadcast_to(r, h.shape), reset_state, previous)
        previous = tree_where(scan_inputs.resets, everywhere, previous)
    previous = promote_state(previous, scan_inputs.xs.dtype)
    preactivations, elementwise = residuals.preactivations, residuals.elementwise
    if preactivations is None or elementwise is None:
        projected = residuals.projected
        if projected is None:
            projected = compute_cell.project(scan_inputs.xs)
        recomputed = run_step(compute_cell, previous, projected)
        preactivations = [matmul.preactivations for matmul in recomputed.matmuls]
        elementwise = graph.select_elementwise(projected)
    return [*jax.tree.leaves(previous), *jax.tree.leaves(preactivations), *elementwise]


def _output_vjp(
    cell: AffineCell, graph: StepGraph, chunk: Chunk
) -> tuple[AffineCell, dict[int, Array]]:
    """Cotangents of the cell and of the states that come from the steps' own outputs."""
    valid, dtype = chunk.inputs.valid, chunk.inputs.xs.dtype
    _, vjp = jax.vjp(
        lambda cell, states: mask_outputs(cell.output(states), valid, dtype),
        cell,
        chunk.residuals.states,
    )
    d_cell, d_states = vjp(chunk.d_ys)
    return d_cell, {
        leaf: d.astype(accum_dtype(dtype))
        for leaf, d in enumerate(jax.tree.leaves(d_states))
        if leaf in graph.output_state_leaves
    }


def _projection_vjp(
    cell: AffineCell,
    graph: StepGraph,
    inputs: Leaves,
    xs: Array,
    d_preactivations: list[Leaves],
    d_biases: list[Leaves],
    d_elementwise: Leaves,
) -> tuple[AffineCell, Array]:
    """Cotangents of the cell and of ``xs``, through the projected inputs and the addends.

    The cotangent of a preactivation is that of its addend, too; of an addend that is a vector it is
    ``d_biases``.
    """
    dtype = xs.dtype
    previous, preactivations = graph.previous_state(inputs), graph.preactivations(inputs)

    def read(cell: AffineCell, xs: Array) -> tuple[list[list[Array | None]], Leaves]:
        compute_cell = cast_params(cell, dtype)
        projected = compute_cell.project(xs)
        trace = run_step(compute_cell, previous, projected, replay(preactivations))
        addends = [
            [
                addend
                if addend is None or addend.ndim == 1
                else jnp.broadcast_to(addend, preactivation.shape)
                for addend, preactivation in zip(matmul.addends, matmul.preactivations, strict=True)
            ]
            for matmul in trace.matmuls
        ]
        return addends, graph.select_elementwise(projected)

    (addends, _), vjp = jax.vjp(read, cell, _flatten_time_batch(xs))
    d_addends = [
        [
            None if addend is None else d_bias if addend.ndim == 1 else d
            for addend, d, d_bias in zip(*of_matmul, strict=True)
        ]
        for of_matmul in zip(addends, d_preactivations, d_biases, strict=True)
    ]
    d_cell, d_xs = vjp((d_addends, d_elementwise))
    return d_cell, d_xs.reshape(xs.shape)


def _flatten_time_batch(tree: Any) -> Any:
    """All axes but the last as one: (T, *batch, H) -> (rows, H)."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), tree)


def _stack_jacobian(jacobian: ElementwiseJacobian, slots: range) -> dict[int, Array]:
    """By output, its derivatives with respect to a matmul's preactivations, (T, *batch, k, H).

    One array and not k: the scan multiplies it in one kernel.
    """
    stacked = {}
    for output, row in enumerate(jacobian):
        if any(slot in row for slot in slots):
            zeros = jnp.zeros_like(next(iter(row.values())))
            stacked[output] = jnp.stack([row.get(slot, zeros) for slot in slots], axis=-2)
    return stacked


def _mask_jacobian(
    jacobian: ElementwiseJacobian, valid: Array, states: Leaves
) -> ElementwiseJacobian:
    """The derivatives, those of the identity at steps that are not valid."""
    masked = []
    for output, row in enumerate(jacobian):
        if output < len(states):
            row = {
                slot: jnp.where(broadcast_mask(valid, d), d, jnp.zeros_like(d))
                for slot, d in row.items()
            }
            like = states[output]
            own = row.get(output, jnp.zeros_like(like))
            row[output] = jnp.where(broadcast_mask(valid, like), own, jnp.ones_like(like))
        masked.append(row)
    return masked


def _previous_states(before: Array, states: Array, *, reverse: bool) -> Array:
    """The state before each step, from the one before all and those after each."""
    if reverse:
        return jnp.concatenate([states[1:], before[None]])
    return jnp.concatenate([before[None], states[:-1]])
