"""Layers of cells, in one direction or both."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gru_jax import _checks
from gru_jax._unroll.api import Checkpoint, unroll_with_policy
from gru_jax._unroll.validation import batch_shape_of, check_state
from gru_jax.cells import Cell, init
from gru_jax.dropout import dropout as apply_dropout
from gru_jax.typing import Array, Inputs, Lengths, Shape, State, TimeMask

Merge = Literal["concat", "sum", "mean", "product"]

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": lambda forward, backward: forward * backward,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Cells by layer and direction, and how they are joined.

    Attributes:
        layers: ``layers[layer][direction]`` is a cell; direction 0 reads forward, 1 backward.
        merge: how the two directions' outputs become one: ``"concat"``, ``"sum"``, ``"mean"``
            or ``"product"``.
        residual: whether a layer's input is added to its output, from the second layer on.
    """

    layers: tuple[tuple[Cell, ...], ...]
    merge: Merge = dataclasses.field(default="concat", metadata={"static": True})
    residual: bool = dataclasses.field(default=False, metadata={"static": True})

    def validate(self) -> None:
        """Raises ValueError or TypeError where the parts do not fit together."""
        _checks.one_of("merge", self.merge, MERGES)
        for index, layer in enumerate(self.layers):
            if len(layer) not in (1, 2):
                raise ValueError(
                    f"layers[{index}] must hold 1 or 2 cells, one a direction; got {len(layer)}"
                )
            for cell in layer:
                cell.validate()

    def initial_state(self, batch_shape: Shape = ()) -> tuple[tuple[State, ...], ...]:
        """The states before the first step, ``[layer][direction]``."""
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
    """Draws the parameters of a stack.

    Args:
        key: a random key.
        input_size: D of the first layer.
        hidden_size: H of every cell.
        num_layers: how many layers.
        bidirectional: whether each layer has a cell that reads backward, too.
        merge: how two directions' outputs become one; with ``"concat"`` the layers after the
            first read 2H features, with the others H.
        residual: whether a layer's input is added to its output, from the second layer on.
        init_cell: draws one cell, ``(key, input_size, hidden_size, **cell_options)``:
            :func:`gru_jax.init`, :func:`gru_jax.init_lstm`, :func:`gru_jax.init_rnn` or one of
            your own.
        **cell_options: handed to ``init_cell``.

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


def unroll_stack(
    stack: Stack,
    xs: Inputs,
    states: tuple[tuple[State, ...], ...] | None = None,
    *,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    key: Array | None = None,
    every_layer: bool = False,
    implementation: str | None = None,
    checkpoint: Checkpoint = None,
) -> tuple[tuple[tuple[State, ...], ...], Any]:
    """Runs a stack over a sequence; the controls hold in both directions.

    Args:
        stack: the cells.
        xs: inputs (T, *batch, D).
        states: before the first step, ``[layer][direction]`` as :func:`gru_jax.initial_state`
            of the stack gives; None for that.
        lengths, mask, starts, implementation, checkpoint: as for :func:`gru_jax.unroll`.
        reverse: swaps the direction in which each cell reads.
        dropout: the share of every layer's outputs but the last's that is zeroed.
        key: a random key; needed where ``dropout`` is not 0. Evaluate with ``dropout=0``.
        every_layer: return each layer's outputs, not only the last one's.

    Returns:
        ``(states, ys)``: the state after the last valid step of each cell,
        ``[layer][direction]``, and the last layer's outputs (T, *batch, H or 2H), or with
        ``every_layer`` a tuple of each layer's, before dropout.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`gru_jax.unroll`; ValueError where
            dropout has no key or the number of states is wrong.
    """
    if not isinstance(stack, Stack):
        raise TypeError(f"stack must be a gru_jax.Stack, got {type(stack).__name__}")
    stack.validate()
    dropout = _checks.probability("dropout", dropout)
    keys = None
    if dropout:
        if key is None:
            raise ValueError("key must be given where dropout is not 0; evaluate with dropout=0")
        keys = jax.random.split(key, len(stack.layers))
    xs = _checks.floating_array("xs", xs)
    states_by_layer = _check_states(stack, states, xs)

    last_states, outputs = [], []
    for index, layer in enumerate(stack.layers):
        if keys is not None and index:
            xs = apply_dropout(keys[index], xs, dropout)
        results = [
            unroll_with_policy(
                sum(map(len, stack.layers)),
                cell,
                xs,
                states_by_layer[index][direction],
                lengths,
                mask,
                starts,
                reverse=reverse != (direction == 1),
                implementation=implementation,
                checkpoint=checkpoint,
            )
            for direction, cell in enumerate(layer)
        ]
        last_states.append(tuple(last for last, _ in results))
        ys = results[0][1]
        if len(layer) == 2:
            ys = MERGES[stack.merge](ys, results[1][1])
        if stack.residual and index:
            ys = ys + xs
        outputs.append(ys)
        xs = ys
    return tuple(last_states), tuple(outputs) if every_layer else xs


def _check_states(
    stack: Stack, states: tuple[tuple[State, ...], ...] | None, xs: Array
) -> tuple[tuple[State | None, ...], ...]:
    if states is None:
        return tuple((None,) * len(layer) for layer in stack.layers)
    expected = [len(layer) for layer in stack.layers]
    if not isinstance(states, (tuple, list)) or not all(
        isinstance(layer, (tuple, list)) for layer in states
    ):
        raise TypeError(
            "states must be states[layer][direction], as gru_jax.initial_state(stack) gives; "
            f"got {type(states).__name__}"
        )
    got = [len(layer) for layer in states]
    if got != expected:
        raise ValueError(
            f"states must hold one state per layer and direction, {expected}; got {got}"
        )
    batch_shape = batch_shape_of("xs", stack.layers[0][0], xs, 1)
    return tuple(
        tuple(
            check_state(f"states[{index}][{direction}]", cell, state, batch_shape)
            for direction, (cell, state) in enumerate(zip(cells, layer, strict=True))
        )
        for index, (cells, layer) in enumerate(zip(stack.layers, states, strict=True))
    )
