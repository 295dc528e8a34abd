"""Truncated backpropagation through time (Williams & Peng 1990)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax import _checks
from gru_jax._unroll.chunks import Run, scan_chunks
from gru_jax._unroll.masking import ScanInputs
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
        TypeError: ``window`` is not an integer.
        ValueError: ``window`` is not positive.
    """
    window = _checks.positive_int("window", window)
    return _windows(xs, window, lengths, mask, starts)


def _windows(
    xs: Inputs, window: int, lengths: Lengths | None, mask: TimeMask | None, starts: TimeMask | None
) -> Iterator[dict[str, Any]]:
    for begin in range(0, xs.shape[0], window):
        within = slice(begin, begin + window)
        inputs: dict[str, Any] = {"xs": xs[within]}
        if lengths is not None:
            inputs["lengths"] = jnp.clip(jnp.asarray(lengths) - begin, 0, inputs["xs"].shape[0])
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

    def run_window(state: State, chunk: Any) -> tuple[State, Array]:
        (numbers, inputs), _ = chunk
        is_first = (numbers == (time - 1 if reverse else 0)).any()
        detached_state = jax.tree.map(lax.stop_gradient, state)
        state = jax.tree.map(lambda h, cut: jnp.where(is_first, h, cut), state, detached_state)
        return run(inputs, state)

    return scan_chunks(run_window, state, (jnp.arange(time), inputs), window, reverse=reverse)
