"""What the sequence modules of NNX and Linen share: batch-major arrays and flat carries."""

from typing import Any

import jax.numpy as jnp

from gru_jax._unroll.api import Checkpoint
from gru_jax.stack import Stack, unroll_stack
from gru_jax.typing import Array, Lengths, TimeMask


def run_sequence(
    stack: Stack,
    inputs: Array,
    *,
    initial_carry: Any,
    seq_lengths: Lengths | None,
    mask: TimeMask | None,
    starts: TimeMask | None,
    time_major: bool,
    reverse: bool,
    return_carry: bool,
    dropout: float = 0.0,
    key: Array | None = None,
    implementation: str | None = None,
    checkpoint: Checkpoint = None,
) -> Any:
    """Runs a stack as :class:`flax.nnx.RNN` runs a cell.

    Args:
        stack: the cells.
        inputs: (*batch, T, D), or (T, *batch, D) where time-major.
        initial_carry: of the structure that is returned; None for zeros or the learned one.
        seq_lengths: (*batch,), as ``lengths`` of :func:`gru_jax.unroll`.
        mask: (*batch, T), or (T, *batch) where time-major, as for :func:`gru_jax.unroll`.
        starts: likewise.
        time_major: whether time is the leading axis.
        reverse: swaps the direction in which each cell reads.
        return_carry: whether to return ``(carry, outputs)``.
        dropout: between the layers.
        key: for dropout.
        implementation: as for :func:`gru_jax.unroll`.
        checkpoint: as for :func:`gru_jax.unroll`.

    Returns:
        Outputs laid out like the inputs, and before them, if asked for, the carry:
        ``carry[layer][direction]``, where the level of a single layer or of a single direction
        is left out, as :class:`flax.nnx.RNN` and :class:`flax.nnx.Bidirectional` have it.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`gru_jax.unroll`; where the inputs
            are batch-major, shapes in messages have time first.
    """
    if not time_major:
        inputs = _batch_major("inputs", inputs, 2)
        mask = None if mask is None else _batch_major("mask", mask, 1)
        starts = None if starts is None else _batch_major("starts", starts, 1)
    states, outputs = unroll_stack(
        stack,
        inputs,
        None if initial_carry is None else _unflatten_carry(stack, initial_carry),
        lengths=seq_lengths,
        mask=mask,
        starts=starts,
        reverse=reverse,
        dropout=dropout,
        key=key,
        implementation=implementation,
        checkpoint=checkpoint,
    )
    if not time_major:
        outputs = jnp.moveaxis(outputs, 0, -2)
    return (_flatten_carry(states), outputs) if return_carry else outputs


def _batch_major(name: str, array: Array, trailing: int) -> Array:
    """Moves time, ``trailing`` axes from the end, to the front."""
    if jnp.ndim(array) < trailing:
        axes = "(*batch, time, input)" if trailing == 2 else "(*batch, time)"
        raise ValueError(f"{name} has shape {jnp.shape(array)}, expected {axes}")
    return jnp.moveaxis(jnp.asarray(array), -trailing, 0)


def _flatten_carry(states: Any) -> Any:
    layers = tuple(layer[0] if len(layer) == 1 else layer for layer in states)
    return layers[0] if len(layers) == 1 else layers


def _unflatten_carry(stack: Stack, carry: Any) -> Any:
    """``states[layer][direction]`` from a flat carry; the stack checks how many there are."""
    layers = (carry,) if len(stack.layers) == 1 else carry
    single = len(stack.layers[0]) == 1
    return tuple((state,) if single else tuple(state) for state in layers)
