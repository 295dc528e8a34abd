"""Backward pass over all steps, chunk after chunk, the one that was read last first."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import StepGraph, run_step
from gru_jax._unroll.backward.adjoint_scan import AdjointScan
from gru_jax._unroll.backward.adjoint_scan import adjoint_scan as default_adjoint_scan
from gru_jax._unroll.backward.chunk import NO_HINTS, Chunk, Cotangents, XlaHints, chunk_backward
from gru_jax._unroll.backward.residuals import Residuals
from gru_jax._unroll.carry import reset_state_like, step_avals
from gru_jax._unroll.chunks import divisor_near, scan_chunks
from gru_jax._unroll.masking import ScanInputs
from gru_jax._unroll.sharding import reshard_like
from gru_jax._unroll.shards import unshard
from gru_jax.cells.base import AffineCell
from gru_jax.cells.precision import cast_like, promote_state
from gru_jax.typing import Array, State

MAX_CHUNK_ELEMENTS = 2**25
"""Elements of a state over a chunk's steps if only memory bounds them: 128 MiB in float32."""


def backward_pass(
    saved: tuple[AffineCell, ScanInputs, State, Residuals],
    cotangents: tuple[State, Array],
    graph: StepGraph,
    *,
    reverse: bool,
    max_chunk_steps: int,
    adjoint_scan: AdjointScan = default_adjoint_scan,
    hints: XlaHints = NO_HINTS,
) -> tuple[AffineCell, ScanInputs, State]:
    """Cotangents of the cell, the inputs and the first state.

    Args:
        saved: what was run, and the residuals of the forward pass.
        cotangents: of the last state and of the outputs.
        graph: of a step.
        reverse: the direction of the forward pass.
        max_chunk_steps: steps of a chunk, at most.
        adjoint_scan: the scan over a chunk's steps.
        hints: see there.
    """
    cell, inputs, h0, residuals = saved
    d_h_last, d_ys = cotangents
    time, dtype = inputs.xs.shape[0], inputs.xs.dtype
    avals = step_avals(cell, inputs, h0)
    reset_state, reset_state_vjp = jax.vjp(lambda cell: reset_state_like(cell, inputs, h0), cell)
    weights, weights_vjp = jax.vjp(lambda cell: weights_of(cell, avals), cell)
    weights_t = [array.astype(dtype).T for array in weights]

    # A matmul with a transposed matrix is slower by a third. Parameters that are transposed outside
    # of the chunks and again within are read as they lie when a gradient transposes them once more.
    leaves, treedef = jax.tree.flatten(cell)
    params_t = [lax.optimization_barrier(leaf.T) for leaf in leaves]

    def chunk_step(carry: Cotangents, numbered: Any) -> tuple[Cotangents, Array]:
        (inputs, residuals, d_ys), state_before = numbered
        return chunk_backward(
            jax.tree.unflatten(treedef, [leaf.T for leaf in params_t]),
            graph,
            weights_t,
            reset_state,
            carry,
            Chunk(inputs, unshard(residuals, materialize=True), d_ys, state_before),
            reverse=reverse,
            adjoint_scan=adjoint_scan,
            hints=hints,
        )

    def zeros_like(tree: Any) -> Any:
        return reshard_like(jax.tree.map(jnp.zeros_like, tree), tree)

    no_resets = inputs.resets is None
    carry = Cotangents(
        state=jax.tree.leaves(promote_state(d_h_last, dtype)),
        reset_state=None if no_resets else jax.tree.leaves(zeros_like(promote_state(h0, dtype))),
        weights=zeros_like(weights),
        cell=zeros_like(cell),
    )
    chunk_size = divisor_near(time, max_chunk_steps)
    carry, d_xs = scan_chunks(
        chunk_step,
        carry,
        (inputs, residuals, d_ys),
        chunk_size,
        reverse=not reverse,
        per_chunk=_states_before_chunks(residuals, h0, time, chunk_size, reverse=reverse),
    )

    d_cells = [carry.cell, *weights_vjp(carry.weights)]
    if carry.reset_state is not None:
        d_reset_state = jax.tree.unflatten(graph.state_treedef, carry.reset_state)
        d_cells += reset_state_vjp(cast_like(d_reset_state, reset_state))
    d_h0 = cast_like(jax.tree.unflatten(graph.state_treedef, carry.state), h0)
    d_cell = jax.tree.map(lambda *d: sum(d[1:], d[0]), *d_cells)
    return d_cell, ScanInputs(d_xs, inputs.valid, inputs.resets), d_h0


def weights_of(cell: AffineCell, avals: tuple[State, Any]) -> list[Array]:
    """The weights of every matmul of a step, in order."""

    def no_matmul(operand: Array, weights: Array, addends: Sequence[Any]) -> tuple[Array, ...]:
        width = weights.shape[-1] // max(1, len(addends))
        return (jnp.zeros((*operand.shape[:-1], width), operand.dtype),) * len(addends)

    trace = run_step(cell, *jax.tree.map(jnp.zeros_like, avals), no_matmul)
    return [matmul.weights for matmul in trace.matmuls]


def _states_before_chunks(
    residuals: Residuals, h0: State, time: int, chunk_size: int, *, reverse: bool
) -> tuple[State, State]:
    """The states before every full chunk, leaves (T // chunk_size, *batch, H), and the rest."""
    count, rest = divmod(time, chunk_size)
    end = count * chunk_size

    def states(chosen: slice) -> State:
        return unshard(jax.tree.map(lambda leaf: leaf[chosen], residuals.states))

    def join(*trees: State) -> State:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)

    first = jax.tree.map(lambda leaf: leaf[None], h0)
    if reverse and rest:
        return states(slice(chunk_size, end + 1, chunk_size)), h0
    if reverse:
        return join(states(slice(chunk_size, time, chunk_size)), first), h0
    before_full = join(first, states(slice(chunk_size - 1, end - 1, chunk_size)))
    if not rest:
        return before_full, h0
    return before_full, jax.tree.map(lambda leaf: leaf[0], states(slice(end - 1, end)))
