"""Validation of what every way of running a cell is called with."""

from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from gru_jax import _checks
from gru_jax.cells.base import Cell
from gru_jax.typing import Array, Inputs, Shape, State, TimeMask, UnrollOptions


class SequenceControls(NamedTuple):
    """``lengths``, ``mask`` and ``starts`` as the caller gave them, None if absent."""

    lengths: Array | None
    mask: Array | None
    starts: Array | None


class CallArguments(NamedTuple):
    """The arrays of a call, validated."""

    params: Cell
    xs: Array
    h0: State | None
    controls: SequenceControls


def validate_call(
    params: Cell, xs: Inputs, h0: State | None, options: UnrollOptions
) -> CallArguments:
    """The arrays of a call; TypeError or ValueError unless all arguments fit together."""
    for name in options:
        if name not in UnrollOptions.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    check_cell(params)
    xs = _checks.floating_array("xs", xs)
    batch_shape = batch_shape_of("xs", params, xs, 1)
    if h0 is not None:
        h0 = check_state("h0", params, h0, batch_shape)
    time_shape = (xs.shape[0], *batch_shape)
    lengths, mask, starts = (options.get(name) for name in SequenceControls._fields)
    if lengths is not None:
        lengths = _checks.integer_array("lengths", lengths)
        _checks.shape("lengths", lengths, batch_shape, "(*batch)")
        _check_range(lengths, time_shape[0])
    controls = SequenceControls(
        lengths, _time_mask("mask", mask, time_shape), _time_mask("starts", starts, time_shape)
    )
    _checks.one_of("reverse", options.get("reverse", False), (False, True))
    check_checkpoint(options.get("checkpoint"))
    return CallArguments(params, xs, h0, controls)


def check_cell(params: Cell) -> None:
    """TypeError or ValueError unless ``params`` is a cell whose parameters fit together."""
    if not isinstance(params, Cell):
        got = type(params).__name__
        hint = {
            "Stack": "; a Stack runs by gru_jax.unroll_stack",
            "GRUCell": "; Flax cells run by flax.nnx.RNN or flax.linen.RNN",
        }.get(got, "")
        raise TypeError(f"params must be a gru_jax.Cell, got {got}{hint}")
    params.validate()


def batch_shape_of(name: str, params: Cell, x: Array, leading: int) -> Shape:
    """The batch axes of inputs; ValueError unless their rank and features are the cell's.

    The batch follows ``leading`` axes: 1 for a sequence, 0 for a step.
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
    """The state as arrays; TypeError or ValueError unless it fits the cell and the batch.

    A plain tuple or list is accepted for a NamedTuple of as many leaves, ``(h, c)`` for an
    :class:`gru_jax.LSTMState`.
    """
    expected = jax.eval_shape(lambda: params.initial_state(batch_shape))
    fields = getattr(expected, "_fields", ())
    if fields and type(state) in (tuple, list) and len(state) == len(fields):
        state = type(expected)(*state)
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise TypeError(
            f"{name} must be a state as gru_jax.initial_state(params) returns, "
            f"{_describe(expected)}; got {_describe(state)}"
        )

    def check_leaf(path: Any, want: jax.ShapeDtypeStruct, leaf: object) -> Array:
        label = name + jax.tree_util.keystr(path)
        array = _checks.floating_array(label, leaf)
        _checks.shape(label, array, want.shape, "(*batch, hidden)")
        return array

    return jax.tree_util.tree_map_with_path(check_leaf, expected, state)


def _time_mask(name: str, value: TimeMask | None, time_shape: Shape) -> TimeMask | None:
    if value is None:
        return None
    mask = _checks.flag_array(name, value)
    hint = f"; drop the last axis: {name}[..., 0]" if mask.shape == (*time_shape, 1) else ""
    _checks.shape(name, mask, time_shape, f"(time, *batch){hint}")
    return mask


def _check_range(lengths: Array, time: int) -> None:
    if isinstance(lengths, jax.core.Tracer):
        return
    values = np.asarray(lengths)
    wrong = values[(values < 0) | (values > time)]
    if wrong.size:
        raise ValueError(f"lengths must lie between 0 and {time}, the time steps; got {wrong[0]}")


def check_checkpoint(value: object) -> None:
    """TypeError or ValueError unless ``value`` says what to save for the backward pass."""
    if isinstance(value, str):
        _checks.one_of("checkpoint", value, ("step", "chunk"))
    elif value is not None:
        _checks.positive_int("checkpoint", value)


def _describe(state: Any) -> str:
    """A state's structure in words, such as ``LSTMState(h, c)`` or ``an array (4, 16)``."""
    if fields := getattr(state, "_fields", None):
        return f"{type(state).__name__}({', '.join(fields)})"
    if isinstance(state, (tuple, list)):
        return f"a {type(state).__name__} of {len(state)}"
    shape = getattr(state, "shape", None)
    return type(state).__name__ if shape is None else f"an array {tuple(shape)}"
