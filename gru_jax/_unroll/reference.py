"""The implementation that serves every cell everywhere: `lax.scan` of one step."""

import jax
from jax import lax

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.masking import Steps, mask_outputs, select
from gru_jax._unroll.sharding import place
from gru_jax.cells.base import Cell, cast_and_step, project, promote_params
from gru_jax.typing import Array, State


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why this implementation does not support a call: none."""
    del spec
    return []


def run(
    spec: CallSpec, cell: Cell, steps: Steps, state: State, *, reverse: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time; ``spec.remat`` says what is kept for gradients."""
    dtype = steps.xs.dtype
    batch_shape = steps.xs.shape[1 : steps.xs.ndim - cell.num_feature_axes]
    # Gradients of the parameters add up over the steps in the dtype the loop reads them in.
    cell = promote_params(cell)

    initial = jax.tree.map(
        lambda new, old: new.astype(old.dtype), cell.initial_state(batch_shape), state
    )
    initial = place(initial, state)

    def body(state: State, step):
        projected, valid, reset = step
        if reset is not None:
            state = select(reset, initial, state)
        new = cast_and_step(cell, state, projected, dtype)
        held = new if valid is None else select(valid, new, state)
        return held, cell.output(held)

    if spec.remat.recompute:
        # A scan's body is never merged with what is outside it, so the barrier that would
        # prevent it only costs time.
        body = jax.checkpoint(body, prevent_cse=False)
    projected = project(cell, steps.xs)
    read = (projected, steps.valid, steps.resets)
    last, outputs = lax.scan(body, state, read, reverse=reverse)
    return last, mask_outputs(outputs, steps.valid, dtype)
