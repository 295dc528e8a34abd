"""Sequences cut along time: gradients that stop at the cuts, and chunks handed out one by one."""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax import _checks
from gru_jax._unroll.masking import Steps
from gru_jax.typing import Array, Inputs, Lengths, State, TimeMask

Run = Callable[[Steps, State], tuple[State, Array]]
TreeT = TypeVar("TreeT")


def tbptt_windows(
    xs: Inputs,
    window: int,
    *,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
) -> Iterator[dict[str, Any]]:
    """Cuts a batch of sequences into windows of ``window`` steps, the last maybe shorter.

    Each comes as the keyword arguments of :func:`gru_jax.unroll`, so that truncated
    backpropagation through time (Williams & Peng 1990) with an update per window reads::

        for inputs in tbptt_windows(xs, 35, lengths=lengths):
            params, h = update(params, h, **inputs)   # unroll(params, h0=h, **inputs) in it

    Running all windows with the state handed over gives what one pass gives.

    Args:
        xs: inputs (T, *batch, D).
        window: steps of a window.
        lengths: (*batch,); each window gets what is left of a sequence within it.
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
        inside = slice(begin, begin + window)
        cut: dict[str, Any] = {"xs": xs[inside]}
        if lengths is not None:
            cut["lengths"] = jnp.clip(jnp.asarray(lengths) - begin, 0, cut["xs"].shape[0])
        if mask is not None:
            cut["mask"] = mask[inside]
        if starts is not None:
            cut["starts"] = starts[inside]
        yield cut


def run_truncated(
    run: Run, steps: Steps, state: State, *, window: int, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, its gradients cut where one window hands its state to the next."""

    def run_window(state: State, steps: Steps, first: Array) -> tuple[State, Array]:
        handed_over = jax.tree.map(lax.stop_gradient, state)
        state = jax.tree.map(lambda given, cut: jnp.where(first, given, cut), state, handed_over)
        return run(steps, state)

    return _over_windows(run_window, steps, state, window=window, reverse=reverse)


def run_checkpointed(
    run: Run, steps: Steps, state: State, *, window: int | None, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, keeping one state per window for the gradient (Chen et al. 2016).

    ``window=None`` takes about sqrt(T) steps, which balances what is kept between the windows
    with what is recomputed within one.
    """
    if window is None:
        window = max(1, math.isqrt(steps.xs.shape[0]))

    # prevent_cse=False: see the scan implementation; a window is a scan's body too.
    checkpointed = jax.checkpoint(run, prevent_cse=False)
    return run_windows(checkpointed, steps, state, window=window, reverse=reverse)


def run_windows(
    run: Run, steps: Steps, state: State, *, window: int, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, a window after another."""

    def run_window(state: State, steps: Steps, first: Array) -> tuple[State, Array]:
        del first
        return run(steps, state)

    return _over_windows(run_window, steps, state, window=window, reverse=reverse)


def in_windows(tree: TreeT, window: int) -> tuple[TreeT, TreeT]:
    """A tree of arrays (T, ...) as full windows (T // window, window, ...), and what is left."""

    def full(leaf: Array) -> Array:
        count = leaf.shape[0] // window
        return leaf[: count * window].reshape(count, window, *leaf.shape[1:])

    def rest(leaf: Array) -> Array:
        return leaf[leaf.shape[0] // window * window :]

    return jax.tree.map(full, tree), jax.tree.map(rest, tree)


def divisor_near(time: int, most: int) -> int:
    """At most ``most``, and a divisor of ``time`` where one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)


def _over_windows(
    run_window: Callable[[State, Steps, Array], tuple[State, Array]],
    steps: Steps,
    state: State,
    *,
    window: int,
    reverse: bool,
) -> tuple[State, Array]:
    """Scans over full windows, and runs the shorter last one after them (in reverse: before)."""
    time = steps.xs.shape[0]
    count, rest = divmod(time, window)
    full, last = in_windows(steps, window)
    index = jnp.arange(count)

    def body(state: State, numbered):
        number, window_steps = numbered
        is_first = number == (count - 1 if reverse else 0)
        return run_window(state, window_steps, is_first & (not (reverse and rest)))

    ys = []
    if rest and reverse:
        state, y = run_window(state, last, jnp.array(True))
        ys.append(y)
    if count:
        state, y = lax.scan(body, state, (index, full), reverse=reverse)
        ys.insert(0, y.reshape(count * window, *y.shape[2:]))
    if (rest and not reverse) or not time:
        state, y = run_window(state, last, jnp.array(count == 0))
        ys.append(y)
    return state, jnp.concatenate(ys)
