"""The implementation ``"scan"``, for every cell everywhere: ``lax.scan`` of one step."""

import jax
from jax import lax

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.carry import reset_state_like
from gru_jax._unroll.masking import ScanInputs, mask_outputs, tree_where
from gru_jax.cells.base import Cell
from gru_jax.cells.precision import cast_and_step, project
from gru_jax.typing import Array, State


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Why this implementation does not support a call: it supports every one."""
    del spec
    return []


def run(
    spec: CallSpec, cell: Cell, inputs: ScanInputs, h0: State, *, reverse: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time; JAX differentiates the loop."""
    dtype = inputs.xs.dtype
    reset_state = reset_state_like(cell, inputs, h0)

    def body(state: State, step: tuple) -> tuple[State, Array]:
        projected, valid, reset = step
        if reset is not None:
            state = tree_where(reset, reset_state, state)
        new = cast_and_step(cell, state, projected, dtype)
        state = new if valid is None else tree_where(valid, new, state)
        return state, cell.output(state)

    if spec.recompute:
        # XLA never merges a scan's body with what is outside of it, so that the barrier against
        # that only costs time.
        body = jax.checkpoint(body, prevent_cse=False)
    scan_inputs = (project(cell, inputs.xs), inputs.valid, inputs.resets)
    h_last, outputs = lax.scan(body, h0, scan_inputs, reverse=reverse)
    return h_last, mask_outputs(outputs, inputs.valid, dtype)


def describe(spec: CallSpec, cell: Cell, inputs: ScanInputs, h0: State) -> list[str]:
    """What :func:`run` does with a call, a line for each decision."""
    del cell, inputs, h0
    saved = "the states; gates are recomputed" if spec.recompute else "what JAX saves"
    return ["forward pass: lax.scan of one step", f"saved for the backward pass: {saved}"]
