"""Shared by the sequence modules of NNX and Linen: batch-major arrays, flat carries, options."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack, get_args

import jax.numpy as jnp
import numpy as np

from gru_jax import _checks
from gru_jax._unroll.validation import check_checkpoint, check_lengths, check_state
from gru_jax.stack import (
    MERGES,
    Stack,
    StackOptions,
    StackStates,
    check_dropout,
    check_sequence,
    unroll_stack,
)
from gru_jax.typing import Array, Checkpoint, DType, ImplementationName, Lengths, Shape, TimeMask


def run_sequence(
    stack: Stack,
    inputs: Array,
    *,
    initial_carry: Any,
    seq_lengths: Lengths | None,
    time_major: bool,
    return_carry: bool,
    **options: Unpack[StackOptions],
) -> Any:
    """Runs a stack with the arguments and results of :class:`flax.nnx.RNN`.

    Args:
        stack: the cells.
        inputs: (*batch, T, D), or (T, *batch, D) if ``time_major``.
        initial_carry: a carry with the structure of the returned one; None for zeros or the
            learned initial state.
        seq_lengths: (*batch,), as ``lengths`` of :func:`gru_jax.unroll`.
        time_major: whether time is the leading axis.
        return_carry: whether to return ``(carry, outputs)``.
        **options: as for :func:`gru_jax.unroll_stack`, but for ``lengths``; ``mask`` and
            ``starts`` are (*batch, T), or (T, *batch) if ``time_major``.

    Returns:
        Outputs with the axes of the inputs; with ``return_carry`` a tuple of the carry and the
        outputs. The carry is ``carry[layer][direction]``; the level of a single layer or a single
        direction is omitted, as in :class:`flax.nnx.RNN` and :class:`flax.nnx.Bidirectional`.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`gru_jax.unroll`.
    """
    stack.validate()
    time_axes = "(time, *batch)" if time_major else "(*batch, time)"
    inputs = _checks.floating_array("inputs", inputs)
    time_shape = _time_shape(stack, inputs, time_axes)
    time_axis = 0 if time_major else len(time_shape) - 1
    batch_shape = time_shape[:time_axis] + time_shape[time_axis + 1 :]
    if seq_lengths is not None:
        seq_lengths = check_lengths("seq_lengths", seq_lengths, time_shape[time_axis], batch_shape)
    options["lengths"] = seq_lengths
    for name in ("mask", "starts"):
        options[name] = _time_first(name, options.get(name), time_shape, time_axis, time_axes)
    states, outputs = unroll_stack(
        stack,
        jnp.moveaxis(inputs, time_axis, 0),
        None if initial_carry is None else _unflatten_carry(stack, initial_carry, batch_shape),
        **options,
    )
    outputs = jnp.moveaxis(outputs, 0, time_axis)
    return (_flatten_carry(states), outputs) if return_carry else outputs


def cast_inputs(inputs: Array, dtype: DType | None, param_dtype: DType) -> Array:
    """The inputs in ``dtype``; without one, integers in the parameters' dtype, as in Flax."""
    if dtype is None:
        kind = getattr(inputs, "dtype", np.dtype(object))
        if jnp.issubdtype(kind, jnp.integer) or kind == np.bool_:
            dtype = param_dtype
    return inputs if dtype is None else jnp.asarray(inputs, dtype)


def check_options(
    *,
    num_layers: int,
    merge: str,
    dropout: float,
    implementation: ImplementationName | None,
    checkpoint: Checkpoint,
    **flags: bool,
) -> None:
    """Raises TypeError or ValueError if an option of a module is not valid, on any device."""
    for name, flag in flags.items():
        _checks.one_of(name, flag, (False, True))
    _checks.positive_int("num_layers", num_layers)
    _checks.one_of("merge", merge, MERGES)
    check_dropout(dropout, num_layers)
    _checks.one_of("implementation", implementation, (None, *get_args(ImplementationName)))
    check_checkpoint(checkpoint)


def check_cell_options(
    module: str, init_cell: Callable[..., Any], options: Iterable[str], own: Iterable[str]
) -> None:
    """TypeError unless ``options`` are arguments of ``init_cell``.

    Args:
        module: the class that was given the options.
        init_cell: the initialiser of its cells.
        options: names.
        own: names of the module's own arguments, for the message.
    """
    parameters = inspect.signature(init_cell).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    # The first three are the key and the sizes.
    known = [parameter.name for parameter in parameters][3:]
    reject_unknown(module, [name for name in options if name not in known], [*own, *known])


def reject_unknown(what: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """TypeError that names the first unknown argument, and what to write instead of it."""
    for name in unknown:
        hint = ELSEWHERE.get(name) or f"it takes {', '.join(dict.fromkeys(known))}"
        raise TypeError(f"{what} has no argument {name!r}: {hint}")


ELSEWHERE = {
    "activation": "gates are sigmoid and tanh; for others write a gru_jax.AffineCell",
    "activation_fn": "gates are sigmoid and tanh; for others write a gru_jax.AffineCell",
    "carry_init": "pass initial_carry to the call, or learned_h0=True here",
    "gate_fn": "gates are sigmoid and tanh; for others write a gru_jax.AffineCell",
    "init_key": "the carry is zeros, initial_carry, or learned with learned_h0=True",
    "go_backwards": "it is reverse=True, and outputs stay aligned with inputs",
    "keep_order": "outputs always stay aligned with inputs",
    "recurrent_activation": "gates are sigmoid and tanh; for others write a gru_jax.AffineCell",
    "return_sequences": "outputs are those of all steps; return_carry=True adds the last state",
    "return_state": "it is return_carry=True",
    "unroll": "time is always a compiled loop",
}
"""Arguments of Flax's and Keras' recurrent layers, and what takes their place here."""


def _time_shape(stack: Stack, inputs: Array, time_axes: str) -> Shape:
    """The axes of the inputs but the features; ValueError unless the first cell can read them."""
    cell = stack.layers[0][0]
    axes = f"{time_axes[:-1]}, input)"
    if inputs.ndim <= cell.num_feature_axes:
        raise ValueError(
            f"inputs has shape {inputs.shape}, expected at least {1 + cell.num_feature_axes} "
            f"axes: {axes}"
        )
    if cell.input_size not in (None, inputs.shape[-1]):
        raise ValueError(
            f"inputs has shape {inputs.shape}, expected its last axis to be {cell.input_size}, "
            f"the module's input size: {axes}"
        )
    return inputs.shape[: inputs.ndim - cell.num_feature_axes]


def _time_first(
    name: str, flags: TimeMask | None, time_shape: Shape, time_axis: int, time_axes: str
) -> Array | None:
    """``mask`` or ``starts`` with time moved to the front; ValueError for a wrong shape."""
    if flags is None:
        return None
    shape = jnp.shape(flags)
    if shape != time_shape:
        hint = "; drop the last axis" if shape == (*time_shape, 1) else ""
        raise ValueError(f"{name} has shape {shape}, expected {time_shape}: {time_axes}{hint}")
    return jnp.moveaxis(jnp.asarray(flags), time_axis, 0)


def _flatten_carry(states: StackStates) -> Any:
    layers = tuple(layer[0] if len(layer) == 1 else layer for layer in states)
    return layers[0] if len(layers) == 1 else layers


def _unflatten_carry(stack: Stack, carry: Any, batch_shape: Shape) -> StackStates:
    """``states[layer][direction]`` from a flat carry; errors name the entries of the carry."""

    def entries(name: str, value: Any, count: int, unit: str) -> Sequence[tuple[str, Any]]:
        if count == 1:
            return [(name, value)]
        values = check_sequence(name, value, count, unit)
        return [(f"{name}[{index}]", each) for index, each in enumerate(values)]

    layers = entries("initial_carry", carry, len(stack.layers), "layer")
    return tuple(
        tuple(
            check_state(state_name, cell, state, batch_shape)
            for cell, (state_name, state) in zip(
                cells, entries(name, layer, len(cells), "direction"), strict=True
            )
        )
        for cells, (name, layer) in zip(stack.layers, layers, strict=True)
    )
