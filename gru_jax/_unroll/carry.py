"""Shapes and dtypes of scan carries."""

import jax

from gru_jax._unroll.masking import ScanInputs
from gru_jax._unroll.sharding import reshard_like
from gru_jax.cells.base import Cell
from gru_jax.cells.linear import accum_dtype
from gru_jax.cells.precision import cast_like, cast_params, promote_state
from gru_jax.typing import Array, ProjectedInputs, Shape, State


def batch_shape_of(cell: Cell, xs: Array) -> Shape:
    """The batch axes of inputs (T, *batch, ...)."""
    return xs.shape[1 : xs.ndim - cell.num_feature_axes]


def initial_carry(cell: Cell, xs: Array) -> State:
    """The carry of a call without ``h0``: the initial state, in float32 at least."""
    dtype = accum_dtype(xs.dtype)
    state = cell.initial_state(batch_shape_of(cell, xs))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), state)


def reset_state_like(cell: Cell, inputs: ScanInputs, state: State) -> State:
    """The state that a reset puts in, with the dtypes and the sharding of another."""
    reset_state = cell.initial_state(batch_shape_of(cell, inputs.xs))
    return reshard_like(cast_like(reset_state, state), state)


def step_avals(cell: Cell, inputs: ScanInputs, state: State) -> tuple[State, ProjectedInputs]:
    """Types of the state and the projected inputs that one step combines."""
    dtype = inputs.xs.dtype
    x = jax.ShapeDtypeStruct(inputs.xs.shape[1:], dtype)
    return jax.eval_shape(
        lambda h, x: (promote_state(h, dtype), cast_params(cell, dtype).project(x)), state, x
    )
