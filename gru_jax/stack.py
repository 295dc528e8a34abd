"""Layers of cells, in one direction or both."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, Unpack, overload

import jax
import jax.numpy as jnp

from gru_jax import _checks
from gru_jax._repr import has_parameter, repr_with_shapes
from gru_jax._unroll.api import unroll_both, unroll_with_policy
from gru_jax._unroll.validation import batch_shape_of, check_state, describe, flax_hint
from gru_jax.cells import Cell, init
from gru_jax.dropout import dropout as apply_dropout
from gru_jax.typing import (
    Array,
    Checkpoint,
    ImplementationName,
    Inputs,
    Lengths,
    Outputs,
    Shape,
    State,
    TimeMask,
    UnrollOptions,
)

Merge: TypeAlias = Literal["concat", "sum", "mean", "product"]

StackStates: TypeAlias = tuple[tuple[State, ...], ...]
"""The states of a stack's cells, ``[layer][direction]``."""

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": lambda forward, backward: forward * backward,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Stack:
    """Layers of cells, in one direction or both; compared and hashed by identity.

    Attributes:
        layers: ``layers[layer][direction]`` is a cell; direction 0 reads forward, 1 backward.
        merge: how the outputs of the two directions are combined: ``"concat"``, ``"sum"``,
            ``"mean"`` or ``"product"``.
        residual: whether a layer's input is added to its output, from the second layer on.
    """

    layers: tuple[tuple[Cell, ...], ...]
    merge: Merge = dataclasses.field(default="concat", metadata={"static": True})
    residual: bool = dataclasses.field(default=False, metadata={"static": True})

    __repr__ = repr_with_shapes
    __contains__ = has_parameter

    def validate(self) -> None:
        """Raises ValueError or TypeError if an option or a cell is not valid."""
        _checks.one_of("merge", self.merge, MERGES)
        if not self.layers:
            raise ValueError("layers must hold at least one layer, got none")
        for index, layer in enumerate(self.layers):
            if len(layer) not in (1, 2):
                raise ValueError(
                    f"layers[{index}] must hold 1 or 2 cells, one for each direction; "
                    f"got {len(layer)}"
                )
            for cell in layer:
                cell.validate()

    def initial_state(self, batch_shape: Shape = ()) -> StackStates:
        """The initial states, ``[layer][direction]``."""
        return tuple(
            tuple(cell.initial_state(batch_shape) for cell in layer) for layer in self.layers
        )


def init_stack(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    merge: Merge = "concat",
    residual: bool = False,
    init_cell: Callable[..., Cell] = init,
    **cell_options: Any,
) -> Stack:
    """Initialises the parameters of a stack.

    Args:
        key: a random key.
        input_size: D of the first layer.
        hidden_size: H of every cell.
        num_layers: number of layers.
        bidirectional: whether each layer also has a cell that reads backward.
        merge: how the outputs of two directions are combined. With ``"concat"`` the layers after
            the first read 2H features, otherwise H.
        residual: whether a layer's input is added to its output, from the second layer on.
        init_cell: initialises one cell, ``(key, input_size, hidden_size, **cell_options)``:
            :func:`gru_jax.init`, :func:`gru_jax.init_lstm`, :func:`gru_jax.init_rnn` or your own.
        **cell_options: keyword arguments of ``init_cell``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size that is not positive, an unknown option.
    """
    _checks.random_key("key", key)
    num_layers = _checks.positive_int("num_layers", num_layers)
    _checks.one_of("merge", merge, MERGES)
    directions = 2 if bidirectional else 1
    merged_size = hidden_size * (directions if merge == "concat" else 1)
    keys = iter(jax.random.split(key, num_layers * directions))
    layers = tuple(
        tuple(
            init_cell(next(keys), merged_size if layer else input_size, hidden_size, **cell_options)
            for _ in range(directions)
        )
        for layer in range(num_layers)
    )
    return Stack(layers, merge=merge, residual=residual)


class StackOptions(UnrollOptions, total=False):
    """Keyword arguments of :func:`unroll_stack` that do not change the type of its result."""

    dropout: float
    key: Array | None


@overload
def unroll_stack(
    stack: Stack,
    xs: Inputs,
    states: Sequence[Sequence[State]] | None = None,
    *,
    every_layer: Literal[False] = False,
    **options: Unpack[StackOptions],
) -> tuple[StackStates, Outputs]: ...
@overload
def unroll_stack(
    stack: Stack,
    xs: Inputs,
    states: Sequence[Sequence[State]] | None = None,
    *,
    every_layer: Literal[True],
    **options: Unpack[StackOptions],
) -> tuple[StackStates, tuple[Outputs, ...]]: ...
@overload
def unroll_stack(
    stack: Stack,
    xs: Inputs,
    states: Sequence[Sequence[State]] | None = None,
    *,
    every_layer: bool,
    **options: Unpack[StackOptions],
) -> tuple[StackStates, Any]: ...
def unroll_stack(
    stack: Stack,
    xs: Inputs,
    states: Sequence[Sequence[State]] | None = None,
    *,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    key: Array | None = None,
    every_layer: bool = False,
    implementation: ImplementationName | None = None,
    checkpoint: Checkpoint = None,
) -> tuple[StackStates, Any]:
    """Runs a stack over a sequence; ``lengths``, ``mask`` and ``starts`` apply to both directions.

    Args:
        stack: the cells.
        xs: inputs (T, *batch, D).
        states: the states before the first step, ``[layer][direction]``, in lists or tuples, as
            :func:`gru_jax.initial_state` of the stack returns them, which is also the default.
        lengths, mask, starts, implementation, checkpoint: as for :func:`gru_jax.unroll`.
        reverse: swaps the direction in which each cell reads.
        dropout: the dropout rate of the outputs of every layer but the last. With a single layer
            it has no effect, which is a UserWarning.
        key: a random key; required if dropout has an effect. Evaluate with ``dropout=0``.
        every_layer: return the outputs of each layer instead of only the last.

    Returns:
        ``(states, ys)``: the state of each cell after its last valid step,
        ``[layer][direction]``, and the last layer's outputs (T, *batch, H or 2H). With
        ``every_layer``, ``ys`` is a tuple of each layer's outputs, before dropout.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`gru_jax.unroll`; ValueError if
            dropout has no key, the number of states is wrong, or outputs that are added or
            multiplied have different sizes.
    """
    if not isinstance(stack, Stack):
        got = type(stack).__name__
        hint = "; a cell runs by gru_jax.unroll" if isinstance(stack, Cell) else flax_hint(got)
        raise TypeError(f"stack must be a gru_jax.Stack, got {got}{hint}")
    stack.validate()
    keys = None
    if check_dropout(dropout, len(stack.layers)):
        if key is None:
            raise ValueError("key must be given if dropout is not 0; evaluate with dropout=0")
        keys = jax.random.split(_checks.random_key("key", key), len(stack.layers))
    xs = _checks.floating_array("xs", xs)
    initial_states: Sequence[Sequence[State | None]] = [[None] * len(c) for c in stack.layers]
    if states is not None:
        batch_shape = batch_shape_of("xs", stack.layers[0][0], xs, 1)
        initial_states = check_states("states", stack, states, batch_shape)

    options = UnrollOptions(
        lengths=lengths,
        mask=mask,
        starts=starts,
        reverse=reverse,
        implementation=implementation,
        checkpoint=checkpoint,
    )
    num_cells = sum(map(len, stack.layers))
    last_states, outputs = [], []
    for index, layer in enumerate(stack.layers):
        if keys is not None and index:
            xs = apply_dropout(keys[index], xs, dropout)
        first_states = initial_states[index]
        if len(layer) == 2:
            results = unroll_both(layer, xs, first_states, num_live_cells=num_cells, **options)
        else:
            (cell,), (state,) = layer, first_states
            results = [unroll_with_policy(cell, xs, state, num_live_cells=num_cells, **options)]
        last_states.append(tuple(last for last, _ in results))
        ys = results[0][1]
        if len(layer) == 2:
            ys = _merge(stack.merge, index, ys, results[1][1])
        if stack.residual and index:
            if ys.shape != xs.shape:
                raise ValueError(
                    "residual=True needs layers as wide as their inputs, and "
                    f"layers[{index}] reads {xs.shape[-1]} features and returns {ys.shape[-1]}"
                )
            ys = ys + xs
        outputs.append(ys)
        xs = ys
    return tuple(last_states), tuple(outputs) if every_layer else xs


def _merge(merge: Merge, layer: int, forward: Array, backward: Array) -> Array:
    if merge != "concat" and forward.shape != backward.shape:
        raise ValueError(
            f"merge={merge!r} needs directions of one size, and those of layers[{layer}] return "
            f"{forward.shape[-1]} and {backward.shape[-1]} features"
        )
    return MERGES[merge](forward, backward)


def check_dropout(rate: float, num_layers: int) -> bool:
    """Returns whether dropout between layers has an effect; warns if a single layer prevents it.

    Raises:
        TypeError, ValueError: the rate is not a number in [0, 1).
    """
    if not _checks.probability("dropout", rate):
        return False
    if num_layers == 1:
        warnings.warn(
            f"dropout={rate} has no effect: it applies between layers, and there is only one",
            UserWarning,
            stacklevel=3,
        )
    return num_layers > 1


def check_states(
    name: str, stack: Stack, states: Sequence[Sequence[State]], batch_shape: Shape
) -> StackStates:
    """The states ``[layer][direction]`` as arrays; TypeError or ValueError if they do not fit.

    Args:
        name: the argument's name in error messages.
        stack: the cells.
        states: in lists or tuples.
        batch_shape: axes of the batch.
    """
    layers = check_sequence(name, states, len(stack.layers), "layer")
    return tuple(
        tuple(
            check_state(f"{name}[{index}][{direction}]", cell, state, batch_shape)
            for direction, (cell, state) in enumerate(
                zip(
                    cells,
                    check_sequence(f"{name}[{index}]", layer, len(cells), "direction"),
                    strict=True,
                )
            )
        )
        for index, (cells, layer) in enumerate(zip(stack.layers, layers, strict=True))
    )


def check_sequence(name: str, value: Any, count: int, unit: str) -> Sequence[Any]:
    """Returns ``value``; TypeError or ValueError unless it is a sequence of ``count`` entries."""
    expected = f"{name} must be a tuple or list with one entry for each {unit}, {count} in all"
    if not isinstance(value, (tuple, list)) or hasattr(value, "_fields"):
        raise TypeError(f"{expected}; got {describe(value)}")
    if len(value) != count:
        raise ValueError(f"{expected}; got {len(value)}")
    return value
