"""Time split into chunks: a scan over them, and rematerialisation, which reruns them."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.carry import match_carry_sharding
from gru_jax._unroll.masking import ScanInputs
from gru_jax.typing import Array, State

CarryT = TypeVar("CarryT")

Run: TypeAlias = Callable[[ScanInputs, State], tuple[State, Array]]
"""Runs a cell over some steps: ``(inputs, h0) -> (h_last, ys)``."""


def scan_chunks(
    body: Callable[[CarryT, Any], tuple[CarryT, Any]],
    carry: CarryT,
    tree: Any,
    chunk_size: int,
    *,
    reverse: bool,
    per_chunk: tuple[Any, Any] = (None, None),
) -> tuple[CarryT, Any]:
    """``lax.scan`` over chunks of time instead of steps; the last chunk may be shorter.

    The body is ``(carry, (chunk, extra)) -> (carry, ys)``; a chunk and ``ys`` have leaves
    (steps, ...). ``per_chunk`` has the extras of the full chunks, leaves (T // chunk_size, ...),
    and of the rest.
    """
    count, rest = divmod(jax.tree.leaves(tree)[0].shape[0], chunk_size)
    end = count * chunk_size

    def split(leaf: Array) -> Array:
        return leaf[:end].reshape(count, chunk_size, *leaf.shape[1:])

    full = (jax.tree.map(split, tree), per_chunk[0])
    tail = (jax.tree.map(lambda leaf: leaf[end:], tree), per_chunk[1])
    has_tail = bool(rest) or not count
    ys, ys_tail = None, None
    if has_tail and reverse:
        carry, ys_tail = body(carry, tail)
    if count:
        first = jax.tree.map(lambda leaf: leaf[0], full)
        if count == 1:
            carry, ys = body(carry, first)
        else:
            carry = match_carry_sharding(lambda carry: body(carry, first)[0], carry)
            carry, ys = lax.scan(body, carry, full, reverse=reverse)
            ys = jax.tree.map(lambda y: y.reshape(end, *y.shape[2:]), ys)
    if has_tail and not reverse:
        carry, ys_tail = body(carry, tail)
    if not (count and has_tail):
        return carry, ys if count else ys_tail
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, ys_tail)


def divisor_near(time: int, most: int) -> int:
    """Steps of a chunk: at most ``most``, and a divisor of ``time`` if one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)


def run_in_chunks(
    run: Run, inputs: ScanInputs, state: State, *, chunk_size: int, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, chunk after chunk."""

    def body(state: State, chunk: tuple[ScanInputs, None]) -> tuple[State, Array]:
        return run(chunk[0], state)

    return scan_chunks(body, state, inputs, chunk_size, reverse=reverse)


def run_with_remat(
    run: Run, inputs: ScanInputs, state: State, *, chunk_size: int | None, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, saving one state per chunk for the gradient (Chen et al. 2016)."""
    if chunk_size is None:
        chunk_size = default_chunk_size(inputs.xs.shape[0])
    # prevent_cse=False: see the reference implementation; a chunk is a scan's body, too.
    rerun = jax.checkpoint(run, prevent_cse=False)
    return run_in_chunks(rerun, inputs, state, chunk_size=chunk_size, reverse=reverse)


def default_chunk_size(time: int) -> int:
    """About sqrt(T) steps: what is saved between chunks is as much as is recomputed in one."""
    return max(1, math.isqrt(time))
