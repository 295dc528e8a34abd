"""Time split into chunks, and a scan over them."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.sharding import match_carry_sharding

CarryT = TypeVar("CarryT")
TreeT = TypeVar("TreeT")


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

    Args:
        body: ``(carry, (chunk, extra)) -> (carry, ys)``; a chunk has leaves (steps, ...), and so
            have ``ys``.
        carry: the carry before the first chunk.
        tree: leaves (T, ...).
        chunk_size: steps of a chunk.
        reverse: whether the last chunk comes first.
        per_chunk: the extras of the full chunks, leaves (T // chunk_size, ...), and of the rest.

    Returns:
        The last carry, and ``ys`` of all steps.
    """
    time = jax.tree.leaves(tree)[0].shape[0]
    count, rest = divmod(time, chunk_size)
    full, tail = split_chunks(tree, chunk_size)
    full, tail = (full, per_chunk[0]), (tail, per_chunk[1])
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
            ys = jax.tree.map(lambda y: y.reshape(count * chunk_size, *y.shape[2:]), ys)
    if has_tail and not reverse:
        carry, ys_tail = body(carry, tail)
    if not (count and has_tail):
        return carry, ys if count else ys_tail
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, ys_tail)


def split_chunks(tree: TreeT, chunk_size: int) -> tuple[TreeT, TreeT]:
    """Leaves (T, ...) as full chunks (T // chunk_size, chunk_size, ...), and the rest."""

    def full(leaf: Any) -> Any:
        count = leaf.shape[0] // chunk_size
        return leaf[: count * chunk_size].reshape(count, chunk_size, *leaf.shape[1:])

    def rest(leaf: Any) -> Any:
        return leaf[leaf.shape[0] // chunk_size * chunk_size :]

    return jax.tree.map(full, tree), jax.tree.map(rest, tree)


def divisor_near(time: int, most: int) -> int:
    """Steps of a chunk: at most ``most``, and a divisor of ``time`` if one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)
