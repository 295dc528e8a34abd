"""Time split into chunks: a scan over them, and rematerialisation, which reruns them."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.carry import match_carry_sharding, reshard_like
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
    remat_policy: Callable[..., bool] | None = None,
) -> tuple[CarryT, Any]:
    """``lax.scan`` over chunks of time instead of steps; the last chunk may be shorter.

    The body is ``(carry, (chunk, extra)) -> (carry, ys)``; a chunk and ``ys`` have leaves
    (steps, ...). ``per_chunk`` has the extras of the full chunks, leaves (T // chunk_size, ...),
    and of the rest. With ``remat_policy`` each chunk is a :func:`jax.checkpoint` with that policy.
    """
    time = jax.tree.leaves(tree)[0].shape[0]
    count, rest = divmod(time, chunk_size)
    end = count * chunk_size

    def run_chunk(carry: CarryT, start: Any, extra: Any, steps: int) -> tuple[CarryT, Any]:
        if steps == time:
            return body(carry, (tree, extra))
        # Sliced in the loop: to split all chunks from a shorter rest ahead of it, XLA copies them.
        chunk = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, steps), tree)
        return body(carry, (chunk, extra))

    if remat_policy is not None:
        # prevent_cse=False: see the reference implementation; a chunk is a scan's body, too.
        run_chunk = jax.checkpoint(
            run_chunk, prevent_cse=False, static_argnums=3, policy=remat_policy
        )
    elif rest and count:
        return _write_chunks(run_chunk, carry, time, chunk_size, per_chunk, reverse=reverse)
    has_tail = bool(rest) or not count
    ys, ys_tail = None, None
    if has_tail and reverse:
        carry, ys_tail = run_chunk(carry, end, per_chunk[1], rest)
    if count:
        first = jax.tree.map(lambda leaf: leaf[0], per_chunk[0])
        if count == 1:
            carry, ys = run_chunk(carry, 0, first, chunk_size)
        else:
            carry = match_carry_sharding(
                lambda carry: run_chunk(carry, 0, first, chunk_size)[0], carry
            )
            if remat_policy is not None:
                starts = chunk_size * jnp.arange(count)
                carry, ys = lax.scan(
                    lambda carry, x: run_chunk(carry, *x, chunk_size),
                    carry,
                    (starts, per_chunk[0]),
                    reverse=reverse,
                )
            else:
                # Views, which XLA reads faster than slices in the loop.
                split = jax.tree.map(
                    lambda leaf: jnp.reshape(leaf, (count, chunk_size, *leaf.shape[1:])), tree
                )
                carry, ys = lax.scan(body, carry, (split, per_chunk[0]), reverse=reverse)
            ys = jax.tree.map(lambda y: y.reshape(end, *y.shape[2:]), ys)
    if has_tail and not reverse:
        carry, ys_tail = run_chunk(carry, end, per_chunk[1], rest)
    if not (count and has_tail):
        return carry, ys if count else ys_tail
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, ys_tail)


def _write_chunks(
    run_chunk: Callable[..., tuple[Any, Any]],
    carry: Any,
    time: int,
    chunk_size: int,
    per_chunk: tuple[Any, Any],
    *,
    reverse: bool,
) -> tuple[Any, Any]:
    """:func:`scan_chunks` with a shorter last chunk, whose ``ys`` are not copied to be joined."""
    count, rest = divmod(time, chunk_size)
    first = jax.tree.map(lambda leaf: leaf[0], per_chunk[0])
    carry = match_carry_sharding(lambda carry: run_chunk(carry, 0, first, chunk_size)[0], carry)
    of_chunk = jax.eval_shape(lambda carry: run_chunk(carry, 0, first, chunk_size)[1], carry)
    ys = jax.tree.map(lambda y: jnp.zeros((time, *y.shape[1:]), y.dtype), of_chunk)
    ys = reshard_like(ys, of_chunk)

    def write(carry: tuple[Any, Any], start: Any, extra: Any, steps: int) -> tuple[Any, Any]:
        carry, ys = carry
        carry, written = run_chunk(carry, start, extra, steps)
        return carry, jax.tree.map(
            lambda y, part: lax.dynamic_update_slice_in_dim(y, part, start, 0), ys, written
        )

    def scan(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        return lax.scan(
            lambda carry, x: (write(carry, *x, chunk_size), None),
            carry,
            (chunk_size * jnp.arange(count), per_chunk[0]),
            reverse=reverse,
        )[0]

    both = carry, ys
    if reverse:
        return scan(write(both, count * chunk_size, per_chunk[1], rest))
    return write(scan(both), count * chunk_size, per_chunk[1], rest)


def divisor_near(time: int, most: int) -> int:
    """Steps of a chunk: at most ``most``, and a divisor of ``time`` if one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)


def run_in_chunks(
    run: Run,
    inputs: ScanInputs,
    state: State,
    *,
    chunk_size: int,
    reverse: bool,
    remat_policy: Callable[..., bool] | None = None,
) -> tuple[State, Array]:
    """``run`` over all steps, chunk after chunk."""

    def body(state: State, chunk: tuple[ScanInputs, None]) -> tuple[State, Array]:
        return run(chunk[0], state)

    return scan_chunks(body, state, inputs, chunk_size, reverse=reverse, remat_policy=remat_policy)


def run_with_remat(
    run: Run, inputs: ScanInputs, state: State, *, chunk_size: int | None, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, saving one state per chunk for the gradient (Chen et al. 2016)."""
    if chunk_size is None:
        chunk_size = default_chunk_size(inputs.xs.shape[0])
    return run_in_chunks(
        run,
        inputs,
        state,
        chunk_size=chunk_size,
        reverse=reverse,
        remat_policy=jax.checkpoint_policies.nothing_saveable,
    )


def default_chunk_size(time: int) -> int:
    """About sqrt(T) steps: what is saved between chunks is as much as is recomputed in one."""
    return max(1, math.isqrt(time))
