"""Truncated backpropagation through time (Williams & Peng 1990)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gru_jax import _checks
from gru_jax._unroll.chunks import Run, scan_chunks
from gru_jax._unroll.masking import ScanInputs
from gru_jax._unroll.validation import SequenceControls, check_controls
from gru_jax.typing import Array, Inputs, Lengths, State, TimeMask


def tbptt_windows(
    xs: Inputs,
    window: int,
    *,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
) -> Iterator[dict[str, Any]]:
    """Splits a batch of sequences into windows of ``window`` steps; the last may be shorter.

    Each window comes as keyword arguments of :func:`gru_jax.unroll`, so that truncated
    backpropagation through time with one update for each window reads::

        for inputs in tbptt_windows(xs, 35, lengths=lengths):
            params, h = update(params, h, **inputs)  # calls unroll(params, h0=h, **inputs)

    Running all windows, each from the last one's state, gives the result of one pass.

    Args:
        xs: inputs (T, *batch, D).
        window: steps of a window.
        lengths: (*batch,); each window gets the rest of a sequence's length within it.
        mask: (T, *batch).
        starts: (T, *batch).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: ``window`` is not positive, shapes do not fit, lengths are out of range.
    """
    window = _checks.positive_int("window", window)
    xs = _checks.floating_array("xs", xs)
    controls = SequenceControls(lengths, mask, starts)
    # How many axes the features of a step have is known to the cell alone.
    ranks = [np.ndim(flags) for flags in (mask, starts) if flags is not None]
    ranks += [] if lengths is None else [1 + np.ndim(lengths)]
    time_shape = xs.shape[: ranks[0] if ranks else 1]
    return _windows(xs, window, check_controls(controls, time_shape))


def _windows(xs: Array, window: int, controls: SequenceControls) -> Iterator[dict[str, Any]]:
    lengths, mask, starts = controls
    for begin in range(0, xs.shape[0], window):
        within = slice(begin, begin + window)
        inputs: dict[str, Any] = {"xs": xs[within]}
        if lengths is not None:
            inputs["lengths"] = jnp.clip(lengths - begin, 0, inputs["xs"].shape[0])
        if mask is not None:
            inputs["mask"] = mask[within]
        if starts is not None:
            inputs["starts"] = starts[within]
        yield inputs


def run_truncated(
    run: Run, inputs: ScanInputs, state: State, *, window: int, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps; gradients do not cross from one window into the one before it."""
    time = inputs.xs.shape[0]
    if time == 0:
        return run(inputs, state)

    def run_window(state: State, chunk: Any) -> tuple[State, Array]:
        (numbers, inputs), _ = chunk
        is_first = (numbers == (time - 1 if reverse else 0)).any()
        detached_state = jax.tree.map(lax.stop_gradient, state)
        state = jax.tree.map(lambda h, cut: jnp.where(is_first, h, cut), state, detached_state)
        return run(inputs, state)

    def is_saved(primitive: Any, *_: Any, **__: Any) -> bool:
        """Slices of the inputs are sliced again."""
        return primitive.name != "dynamic_slice"

    windows = (jnp.arange(time), inputs)
    return scan_chunks(run_window, state, windows, window, reverse=reverse, remat_policy=is_saved)
