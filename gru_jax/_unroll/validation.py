"""Checks of what every way of running a cell is called with."""

import jax

from gru_jax import _checks
from gru_jax.cells.base import Cell
from gru_jax.typing import Array, Shape, State


def check_cell(params: Cell) -> None:
    """TypeError or ValueError unless ``params`` is a cell whose parameters fit together."""
    if not isinstance(params, Cell):
        raise TypeError(f"params must be a gru_jax.Cell, got {type(params).__name__}")
    params.validate()


def batch_shape_of(name: str, params: Cell, x: Array, leading: int) -> Shape:
    """The batch axes of inputs; ValueError unless they have the rank and features of the cell's.

    Args:
        name: what the error calls ``x``.
        params: the cell.
        x: inputs (*batch, D), or with time leading.
        leading: how many axes stand before the batch: 1 for a sequence, 0 for a step.
    """
    features = params.num_feature_axes
    meaning = "(time, *batch, input)" if leading else "(*batch, input)"
    if x.ndim < leading + features:
        raise ValueError(
            f"{name} has shape {x.shape}, expected at least {leading + features} axes: {meaning}"
        )
    if params.input_size is not None and x.shape[-1] != params.input_size:
        raise ValueError(
            f"{name} has shape {x.shape}, expected its last axis to be {params.input_size}, "
            f"the cell's input size: {meaning}"
        )
    return x.shape[leading : x.ndim - features]


def check_state(name: str, params: Cell, state: State, batch_shape: Shape) -> State:
    """The state as arrays; TypeError or ValueError unless it fits the cell and the batch."""
    expected = jax.eval_shape(lambda: params.initial_state(batch_shape))
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise TypeError(
            f"{name} must be what gru_jax.initial_state(params) gives, "
            f"{_describe(expected)}; got {_describe(state)}"
        )

    def check_leaf(path, want: jax.ShapeDtypeStruct, leaf: object) -> Array:
        label = name + jax.tree_util.keystr(path)
        array = _checks.floating_array(label, leaf)
        _checks.shape(label, array, want.shape, "(*batch, hidden)")
        return array

    return jax.tree_util.tree_map_with_path(check_leaf, expected, state)


def _describe(state: State) -> str:
    fields = getattr(state, "_fields", None)
    return type(state).__name__ + (f"({', '.join(fields)})" if fields else "")
