"""Validation of what every way of running a cell is called with."""

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
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
    controls = check_controls(SequenceControls(lengths, mask, starts), time_shape)
    _checks.one_of("reverse", options.get("reverse", False), (False, True))
    checkpoint = options.get("checkpoint")
    check_checkpoint(checkpoint)
    if checkpoint not in (None, "step"):
        check_static_time("checkpoint", checkpoint, xs)
    return CallArguments(params, xs, h0, controls)


def check_static_time(name: str, value: object, xs: Array) -> None:
    """ValueError if the time steps, which an argument divides, are not a number."""
    if not isinstance(xs.shape[0], int):
        raise ValueError(
            f"{name}={value!r} divides time, whose steps must be a number then; got {xs.shape[0]} "
            "steps, a symbol of jax.export"
        )


def check_controls(controls: SequenceControls, time_shape: Shape) -> SequenceControls:
    """The controls as arrays, of int32 and booleans; TypeError or ValueError unless they fit.

    ``time_shape`` is (T, *batch).
    """
    lengths, mask, starts = controls
    if lengths is not None:
        lengths = check_lengths("lengths", lengths, time_shape[0], time_shape[1:])
    return SequenceControls(
        lengths, _time_mask("mask", mask, time_shape), _time_mask("starts", starts, time_shape)
    )


def check_cell(params: Cell) -> None:
    """TypeError or ValueError unless ``params`` is a cell whose parameters fit together."""
    if not isinstance(params, Cell):
        got = type(params).__name__
        hint = "; a Stack runs by gru_jax.unroll_stack" if got == "Stack" else flax_hint(got)
        raise TypeError(f"params must be a gru_jax.Cell, got {got}{hint}")
    params.validate()


def flax_hint(class_name: str) -> str:
    """How a Flax module of this class runs; empty for other classes."""
    if class_name in ("GRUCell", "LSTMCell", "RNNCell", "RecurrentCell"):
        return "; Flax cells run by flax.nnx.RNN or flax.linen.RNN"
    if class_name in ("GRU", "LSTM", "RNN", "RecurrentLayers"):
        return "; a Flax module is called itself, as module(inputs)"
    return ""


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
        shapes = dict.fromkeys(str(leaf.shape) for leaf in jax.tree.leaves(expected))
        arrays = f"arrays {' and '.join(shapes)} in " if fields else ""
        raise TypeError(
            f"{name} must be a state as gru_jax.initial_state(params) returns, "
            f"{arrays}{describe(expected)}; got {describe(state)}"
        )

    def check_leaf(path: Any, want: jax.ShapeDtypeStruct, leaf: object) -> Array:
        label = name + jax.tree_util.keystr(path)
        array = _checks.array_of_kind(label, leaf, want.dtype)
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


def check_lengths(name: str, value: object, time: int, batch_shape: Shape) -> Array:
    """Lengths as int32; TypeError or ValueError unless they fit. Traced values are not checked."""
    lengths = _checks.integer_array(name, value)
    _checks.shape(name, lengths, batch_shape, "(*batch)")
    if not isinstance(lengths, jax.core.Tracer):
        values = np.asarray(lengths)
        wrong = values[(values < 0) | (values > time)]
        if wrong.size:
            raise ValueError(
                f"{name} must lie between 0 and {time}, the time steps; got {wrong[0]}"
            )
    most = jnp.iinfo(jnp.int32).max
    if jnp.iinfo(lengths.dtype).max > most:
        lengths = jnp.clip(lengths, 0, most)
    return lengths.astype(jnp.int32)


def check_checkpoint(value: object) -> None:
    """TypeError or ValueError unless ``value`` says what to save for the backward pass."""
    if isinstance(value, str):
        _checks.one_of("checkpoint", value, ("step", "chunk"))
    elif value is not None:
        _checks.positive_int("checkpoint", value)


def describe(state: Any) -> str:
    """A state's structure in words, such as ``LSTMState(h, c)`` or ``an array (4, 16)``."""
    if fields := getattr(state, "_fields", None):
        parts = zip(fields, state, strict=True)
        arrays = (
            name if hasattr(part, "shape") else f"{name}={part!r:.50}" for name, part in parts
        )
        return f"{type(state).__name__}({', '.join(arrays)})"
    if isinstance(state, (tuple, list)):
        arrays = all(hasattr(part, "shape") for part in state)
        return f"a {type(state).__name__} of {len(state)} {'arrays' if arrays else 'entries'}"
    shape = getattr(state, "shape", None)
    return type(state).__name__ if shape is None else f"an array {tuple(shape)}"
