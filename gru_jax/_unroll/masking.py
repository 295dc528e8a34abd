"""Sequence control: lengths, masks, starts and reading direction, brought into one form."""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from gru_jax import _checks
from gru_jax.typing import Array, DType, Lengths, Shape, State, TimeMask


class Steps(NamedTuple):
    """What happens at each step: a tree of arrays (T, *batch, ...), cut anywhere along time.

    Attributes:
        xs: the inputs (T, *batch, D), zero where a step is not valid.
        valid: (T, *batch), False where the state is held and the output is zero; None: all are.
        resets: (T, *batch), True where the state becomes the initial one before ``xs[t]`` is
            read, in whichever direction that is; None: nowhere.
    """

    xs: Array
    valid: Array | None
    resets: Array | None


class Controls(NamedTuple):
    """The controls as the caller gave them, None where there was nothing."""

    lengths: Array | None
    mask: Array | None
    starts: Array | None


def check_controls(
    time_shape: Shape, lengths: Lengths | None, mask: TimeMask | None, starts: TimeMask | None
) -> Controls:
    """Checks the controls of sequences of ``time_shape`` (T, *batch).

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or lengths outside [0, T] where their values are known.
    """
    if lengths is not None:
        lengths = _checks.integer_array("lengths", lengths)
        _checks.shape("lengths", lengths, time_shape[1:], "(*batch)")
        _check_range(lengths, time_shape[0])
    if mask is not None:
        mask = _checks.boolean_array("mask", mask)
        _checks.shape("mask", mask, time_shape, "(time, *batch)")
    if starts is not None:
        starts = _checks.boolean_array("starts", starts)
        _checks.shape("starts", starts, time_shape, "(time, *batch)")
    return Controls(lengths, mask, starts)


def _check_range(lengths: Array, time: int) -> None:
    if isinstance(lengths, jax.core.Tracer):
        return
    values = np.asarray(lengths)
    wrong = values[(values < 0) | (values > time)]
    if wrong.size:
        raise ValueError(f"lengths must lie between 0 and {time}, the time steps; got {wrong[0]}")


def plan(xs: Array, controls: Controls, *, reverse: bool) -> Steps:
    """Brings inputs and controls into the form that implementations read.

    With ``reverse``, nothing has to be flipped: reading the padding first holds the state, so
    each sequence begins at its own last valid step. A segment that is read backwards ends where
    it starts, so the state is replaced on entering the step before a start.
    """
    lengths, mask, starts = controls
    time = xs.shape[0]
    inside = None
    if lengths is not None:
        # A narrower dtype may hold the lengths and not the number of steps.
        lengths = jnp.broadcast_to(lengths.astype(jnp.int32), (time, *lengths.shape))
        inside = lax.broadcasted_iota(jnp.int32, lengths.shape, 0) < lengths

    valid = mask if inside is None else inside if mask is None else inside & mask
    resets = starts if inside is None or starts is None else starts & inside
    if resets is not None and reverse:
        resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    if valid is not None:
        # Whatever stands at such a step must not reach the arithmetic: 0 * NaN is NaN, and so
        # would be the gradients of a projection that is masked only afterwards.
        xs = jnp.where(expand(valid, xs), xs, jnp.zeros_like(xs))
    return Steps(xs, valid, resets)


def select(condition: Array, on_true: State, on_false: State) -> State:
    """Chooses between two states where ``condition`` (*batch) says so."""
    return jax.tree.map(
        lambda yes, no: jnp.where(expand(condition, yes), yes, no), on_true, on_false
    )


def expand(condition: Array, like: Array) -> Array:
    """A condition broadcast over the trailing axes that ``like`` has and it has not."""
    trailing = (1,) * (like.ndim - condition.ndim)
    return jnp.broadcast_to(condition.reshape(condition.shape + trailing), like.shape)


def mask_outputs(outputs: Array, valid: Array | None, dtype: DType) -> Array:
    """Outputs of all steps in ``dtype``, zero at those that are not valid.

    After the loop, not in it: there they would be a second array to write, of which the XLA of
    JAX 0.10 on a CPU, where it is bfloat16, converts all to float32 and back at each step.
    """
    ys = outputs.astype(dtype)
    return ys if valid is None else jnp.where(expand(valid, ys), ys, jnp.zeros_like(ys))
