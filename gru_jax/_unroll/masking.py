"""Lengths, masks, starts and direction of reading, in the one form that implementations read."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.validation import SequenceControls
from gru_jax.typing import Array, DType, State


class ScanInputs(NamedTuple):
    """The inputs of every step: a tree of arrays (T, *batch, ...), which can be split along time.

    None stands for a mask that is True everywhere and for resets nowhere.
    """

    xs: Array  # (T, *batch, D), zero where a step is not valid
    valid: Array | None  # (T, *batch), False where the state is held and the output is zero
    # (T, *batch), True where the reset state replaces the state before xs[t] is read, in either
    # direction.
    resets: Array | None


def make_scan_inputs(xs: Array, controls: SequenceControls, *, reverse: bool) -> ScanInputs:
    """Inputs and controls in the form that implementations read.

    ``reverse`` flips nothing: the padding is read first and holds the state, so that each sequence
    begins at its own last valid step. A segment that is read backwards ends at its start, so that
    the state is replaced at the step before a start.
    """
    lengths, mask, starts = controls
    time = xs.shape[0]
    is_inside = None
    if lengths is not None:
        lengths = jnp.broadcast_to(lengths, (time, *lengths.shape))
        is_inside = lax.broadcasted_iota(jnp.int32, lengths.shape, 0) < lengths

    valid = mask if is_inside is None else is_inside if mask is None else is_inside & mask
    resets = starts if is_inside is None or starts is None else starts & is_inside
    if resets is not None and reverse:
        resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    if valid is not None:
        # Whatever stands at such a step must not reach the arithmetic: 0 * NaN is NaN, and so
        # would be the gradients of a projection that is masked only afterwards.
        xs = jnp.where(broadcast_mask(valid, xs), xs, jnp.zeros_like(xs))
    return ScanInputs(xs, valid, resets)


def tree_where(condition: Array, on_true: State, on_false: State) -> State:
    """``on_true`` where ``condition`` (*batch), ``on_false`` elsewhere."""
    return jax.tree.map(
        lambda yes, no: jnp.where(broadcast_mask(condition, yes), yes, no), on_true, on_false
    )


def broadcast_mask(mask: Array, like: Array) -> Array:
    """A mask broadcast over the trailing axes that ``like`` has and it has not."""
    trailing = (1,) * (like.ndim - mask.ndim)
    return jnp.broadcast_to(mask.reshape(mask.shape + trailing), like.shape)


def mask_outputs(outputs: Array, valid: Array | None, dtype: DType) -> Array:
    """Outputs of all steps in ``dtype``, zero at those that are not valid.

    Applied after the loop. Inside, the outputs would be a second array to write, and if that is
    bfloat16, XLA:CPU of JAX 0.10 converts all of it to float32 and back at each step.
    """
    ys = outputs.astype(dtype)
    return ys if valid is None else jnp.where(broadcast_mask(valid, ys), ys, jnp.zeros_like(ys))
