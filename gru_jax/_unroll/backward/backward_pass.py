"""Backward pass over all steps, chunk after chunk, the one that was read last first.

Only the state cotangents need a sequential scan; every other gradient is computed for all steps of
a chunk at once. Notation: T steps of the chunk, H units, k preactivations of a matmul.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import StepGraph, run_step
from gru_jax._unroll.backward import adjoint_scan as adjoint
from gru_jax._unroll.backward.jacobian import (
    ElementwiseJacobian,
    Leaves,
    cotangent_of_input,
    mask_jacobian,
    preactivation_cotangent,
    stack_jacobian,
)
from gru_jax._unroll.backward.residuals import Residuals, previous_states, states_before_chunks
from gru_jax._unroll.call_spec import is_static_shape
from gru_jax._unroll.carry import reset_state_like, reshard_like, step_avals
from gru_jax._unroll.chunks import divisor_near, scan_chunks
from gru_jax._unroll.masking import ScanInputs, broadcast_mask, mask_outputs
from gru_jax._unroll.shards import unshard
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import accum_dtype, dot
from gru_jax.cells.precision import cast_like, cast_params, promote_state
from gru_jax.typing import Array, State

# Elements of a state over a chunk's steps if only memory bounds them: 128 MiB in float32.
MAX_CHUNK_ELEMENTS = 2**25


class BackwardOptions(NamedTuple):
    """How a backward pass runs; values do not depend on the last two."""

    graph: StepGraph
    reverse: bool  # the direction of the forward pass
    max_chunk_steps: int
    adjoint_scan: adjoint.AdjointScan = adjoint.adjoint_scan
    # Whether the cotangents of the preactivations are written one by one before they are joined:
    # XLA:CPU joins arrays fast, but not if it computes them on the way.
    materialize: bool = False
    # Rows for each column of a weight gradient up to which the operand is written transposed:
    # XLA:CPU's other matmul routine is faster, except for tall and narrow operands.
    max_transposed_ratio: int = 0


class Cotangents(NamedTuple):
    """What is accumulated from chunk to chunk."""

    state: Leaves  # of the state before the chunk
    reset_state: Leaves | None  # of the state that resets put in; None without resets
    weights: Leaves  # of the recurrent weights, one array per matmul
    cell: AffineCell  # of all other parameters


class Chunk(NamedTuple):
    """Some steps: their inputs, residuals and output cotangents."""

    inputs: ScanInputs
    residuals: Residuals
    d_ys: Array


def backward_pass(
    saved: tuple[AffineCell, ScanInputs, State, Residuals],
    cotangents: tuple[State, Array],
    options: BackwardOptions,
) -> tuple[AffineCell, ScanInputs, State]:
    """Cotangents of the cell, the inputs and the first state, of those of h_last and ys."""
    cell, inputs, h0, residuals = saved
    d_h_last, d_ys = cotangents
    graph, reverse = options.graph, options.reverse
    time, dtype = inputs.xs.shape[0], inputs.xs.dtype
    reset_state, reset_state_vjp = jax.vjp(lambda cell: reset_state_like(cell, inputs, h0), cell)
    weights, weights_vjp = jax.vjp(lambda cell: weights_of(cell, graph, inputs, h0), cell)
    weights_t = [array.astype(dtype).T for array in weights]

    # A matmul with a transposed matrix is slower by a third. Parameters that are transposed outside
    # of the chunks and again within are read as they lie when a gradient transposes them once more.
    leaves, treedef = jax.tree.flatten(cell)
    params_t = [lax.optimization_barrier(leaf.T) for leaf in leaves]

    def chunk_step(carry: Cotangents, step: tuple[Chunk, State]) -> tuple[Cotangents, Array]:
        chunk, state_before = step
        chunk = chunk._replace(residuals=unshard(chunk.residuals, materialize=True))
        cell = jax.tree.unflatten(treedef, [leaf.T for leaf in params_t])
        return _chunk_backward(options, cell, weights_t, reset_state, state_before, carry, chunk)

    def zeros_like(tree: Any) -> Any:
        return reshard_like(jax.tree.map(jnp.zeros_like, tree), tree)

    no_resets = inputs.resets is None
    carry = Cotangents(
        state=jax.tree.leaves(promote_state(d_h_last, dtype)),
        reset_state=None if no_resets else jax.tree.leaves(zeros_like(promote_state(h0, dtype))),
        weights=zeros_like(weights),
        cell=zeros_like(cell),
    )
    chunk_size = divisor_near(time, options.max_chunk_steps)
    before = states_before_chunks(residuals, h0, time, chunk_size, reverse=reverse)
    chunks = Chunk(inputs, residuals, d_ys)
    carry, d_xs = scan_chunks(
        chunk_step, carry, chunks, chunk_size, reverse=not reverse, per_chunk=before
    )

    d_cells = [carry.cell, *weights_vjp(carry.weights)]
    if carry.reset_state is not None:
        d_reset_state = jax.tree.unflatten(graph.state_treedef, carry.reset_state)
        d_cells += reset_state_vjp(cast_like(d_reset_state, reset_state))
    d_h0 = cast_like(jax.tree.unflatten(graph.state_treedef, carry.state), h0)
    return _add(*d_cells), ScanInputs(d_xs, inputs.valid, inputs.resets), d_h0


def weights_of(cell: AffineCell, graph: StepGraph, inputs: ScanInputs, h0: State) -> list[Array]:
    """The weights of every matmul of a step, in order."""
    leaves = jax.tree.leaves(cell)
    parameters = [leaves[leaf] for leaf in graph.weights_leaf if leaf is not None]
    if len(parameters) == len(graph.weights_leaf):
        return parameters

    def no_matmul(operand: Array, weights: Array, addends: Sequence[Any]) -> tuple[Array, ...]:
        width = weights.shape[-1] // max(1, len(addends))
        return (jnp.zeros((*operand.shape[:-1], width), operand.dtype),) * len(addends)

    avals = step_avals(cell, inputs, h0)
    zeros = jax.tree.map(lambda aval: jnp.zeros(aval.shape, aval.dtype), avals)
    trace = run_step(cell, *zeros, affine_fn=no_matmul)
    return [matmul.weights for matmul in trace.matmuls]


def _add(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def _chunk_backward(
    options: BackwardOptions,
    cell: AffineCell,
    weights_t: Leaves,
    reset_state: State,
    state_before: State,
    carry: Cotangents,
    chunk: Chunk,
) -> tuple[Cotangents, Array]:
    """Cotangents before a chunk, and those of its inputs (T, *batch, D)."""
    graph, scan_inputs = options.graph, chunk.inputs
    dtype, resets = scan_inputs.xs.dtype, scan_inputs.resets
    compute_cell = cast_params(cell, dtype)
    previous = previous_states(
        state_before, chunk.residuals.states, scan_inputs, reset_state, reverse=options.reverse
    )
    inputs = _elementwise_inputs(compute_cell, graph, previous, chunk)
    jacobian = graph.elementwise_jacobian(compute_cell, inputs)
    if scan_inputs.valid is not None:
        jacobian = mask_jacobian(jacobian, scan_inputs.valid, inputs[: graph.num_states])
    d_cell_outputs, d_from_outputs = _output_vjp(cell, graph, chunk)
    matmuls = range(len(graph.num_splits))
    slots_of = list(map(graph.preactivation_slots, matmuls))
    states_only = [{i: row[i] for i in row if i < graph.num_states} for row in jacobian]
    stacked = [stack_jacobian(jacobian, slots) for slots in slots_of]
    recurrence = adjoint.AdjointRecurrence(stacked, states_only, d_from_outputs, resets)
    d_state, d_outputs = options.adjoint_scan(
        graph, weights_t, recurrence, carry.state, reverse=not options.reverse
    )

    # From here on time and batch are one axis: XLA lays out a matmul that contracts two badly.
    d_joined = [preactivation_cotangent(row, d_outputs) for row in stacked]
    d_reset_state = carry.reset_state
    if resets is not None and d_reset_state is not None:
        added = _reset_cotangent(graph, jacobian, weights_t, d_outputs, d_joined, resets)
        d_reset_state = _add(d_reset_state, added)
    d_joined = _flatten_time_batch(d_joined)
    operands = _flatten_time_batch(graph.elementwise(compute_cell, inputs)[1])
    d_weights = [
        total
        + _weight_gradient(operand.astype(dtype), d.astype(dtype), options).astype(total.dtype)
        for total, operand, d in zip(carry.weights, operands, d_joined, strict=True)
    ]

    def cotangents_of(slots: Sequence[int]) -> Leaves:
        d_inputs = [cotangent_of_input(jacobian, d_outputs, slot) for slot in slots]
        return _flatten_time_batch(d_inputs)

    def split(joined: Leaves, axis: int) -> Leaves:
        pieces = zip(joined, graph.num_splits, strict=True)
        return [piece for d, splits in pieces for piece in jnp.split(d, splits, axis)]

    d_elementwise = cotangents_of(graph.elementwise_slots)
    if options.materialize:
        d_preactivations = cotangents_of([slot for slots in slots_of for slot in slots])
        written = lax.optimization_barrier((d_preactivations, d_elementwise))
        d_preactivations, d_elementwise = written
    else:
        d_preactivations = split(d_joined, -1)
    d_biases = split([jnp.sum(d, axis=0) for d in d_joined], 0)
    flat_inputs = _flatten_time_batch(inputs)

    def read(cell: AffineCell, xs: Array) -> tuple[list[Array | None], Leaves]:
        """What a step takes of parameters and inputs: addends, and leaves used elementwise."""
        compute_cell = cast_params(cell, dtype)
        projected = compute_cell.project(xs)
        trace = graph.replay(compute_cell, flat_inputs, projected)
        addends = [addend for matmul in trace.matmuls for addend in matmul.addends]
        for index, addend in enumerate(addends):
            if addend is not None:
                shape = flat_inputs[graph.num_states + index].shape
                addends[index] = jnp.broadcast_to(addend, shape if addend.ndim > 1 else shape[-1:])
        return addends, graph.select_elementwise(projected)

    # The cotangent of a preactivation is that of its addend, too; of a vector its sum over rows.
    (addends, leaves), vjp = jax.vjp(read, cell, _flatten_time_batch(scan_inputs.xs))
    d_addends = [
        None if addend is None else d_bias if addend.ndim == 1 else d
        for addend, d, d_bias in zip(addends, d_preactivations, d_biases, strict=True)
    ]
    # Inputs of low precision may be projected leaves as they are.
    d_cell_inputs, d_xs = vjp(cast_like((d_addends, d_elementwise), (addends, leaves)))
    d_cell = _add(carry.cell, d_cell_inputs, d_cell_outputs)
    d_xs = d_xs.reshape(scan_inputs.xs.shape)
    return Cotangents(d_state, d_reset_state, d_weights, d_cell), d_xs


def _elementwise_inputs(
    compute_cell: AffineCell, graph: StepGraph, previous: State, chunk: Chunk
) -> Leaves:
    """The inputs of the cell's elementwise part, see :class:`StepGraph`."""
    _, preactivations, elementwise, projected = chunk.residuals
    if preactivations is None or elementwise is None:
        if projected is None:
            projected = compute_cell.project(chunk.inputs.xs)
        recomputed = run_step(compute_cell, previous, projected)
        preactivations = [matmul.preactivations for matmul in recomputed.matmuls]
        elementwise = graph.select_elementwise(projected)
    return [*jax.tree.leaves(previous), *jax.tree.leaves(preactivations), *elementwise]


def _output_vjp(
    cell: AffineCell, graph: StepGraph, chunk: Chunk
) -> tuple[AffineCell, dict[int, Array]]:
    """Cotangents of the cell and of the states that come from the steps' own outputs."""
    valid, dtype = chunk.inputs.valid, chunk.inputs.xs.dtype

    def outputs(cell: AffineCell, states: State) -> Array:
        return mask_outputs(cell.output(states), valid, dtype)

    d_cell, d_states = jax.vjp(outputs, cell, chunk.residuals.states)[1](chunk.d_ys)
    leaves = jax.tree.leaves(d_states)
    return d_cell, {
        leaf: leaves[leaf].astype(accum_dtype(dtype)) for leaf in sorted(graph.output_state_leaves)
    }


def _reset_cotangent(
    graph: StepGraph,
    jacobian: ElementwiseJacobian,
    weights_t: Leaves,
    d_outputs: dict[int, Array],
    d_joined: Leaves,
    resets: Array,
) -> Leaves:
    """The cotangent (*batch, H) of the state that resets put in: what those steps pass back.

    Without a learned initial state nothing reads it, and XLA leaves it out.
    """

    def at_resets(d: Array) -> Array:
        return jnp.where(broadcast_mask(resets, d), d, jnp.zeros_like(d)).sum(axis=0)

    passed_back = [
        at_resets(cotangent_of_input(jacobian, d_outputs, leaf)) for leaf in range(graph.num_states)
    ]
    for weights, d, leaf in zip(weights_t, d_joined, graph.operand_state_leaf, strict=True):
        if leaf is not None:
            passed_back[leaf] += dot(at_resets(d), weights)
    return passed_back


def _weight_gradient(operand: Array, d_preactivations: Array, options: BackwardOptions) -> Array:
    """``operand^T @ d_preactivations``, accumulated in float32 at least."""
    operand_t, (rows, columns) = operand.T, d_preactivations.shape
    if is_static_shape((rows, columns)) and 0 < rows <= options.max_transposed_ratio * columns:
        operand_t = lax.optimization_barrier(operand_t)
    out = accum_dtype(operand.dtype)
    return jnp.matmul(operand_t, d_preactivations, preferred_element_type=out)


def _flatten_time_batch(tree: Any) -> Any:
    """All axes but the last as one: (T, *batch, H) -> (rows, H)."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), tree)
