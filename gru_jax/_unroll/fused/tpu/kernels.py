"""The pair of kernels for TPU: the weights stay in VMEM, blocks of steps stream past them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gru_jax._unroll.fused.interface import Gates, Kernels
from gru_jax._unroll.fused.tpu.tiling import Chip, fit, unrolled
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType

VALID, RESET = 1, 2
"""Bits of a step's flags."""


def pair(chip: Chip, *, interpret: Any = False) -> Kernels:
    """The kernels for a kind of TPU.

    Args:
        chip: what they have to fit into.
        interpret: as for ``pl.pallas_call``: whether to run without a TPU, and how.
    """
    walk = functools.partial(_walk, chip=chip, interpret=interpret)
    return Kernels(functools.partial(_forward, walk), functools.partial(_backward, walk))


def _forward(
    walk: Callable[..., tuple[Array, Array]],
    projected: Gates,
    w_h: Array,
    b_hn: Array,
    start: Array,
    initial: Array,
    valid: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
    dtype: DType,
) -> tuple[Array, Array]:
    def step(h: Array, read: list[Array], constants: list[Any], rows: list[Any]) -> Any:
        x_r, x_z, x_n, *flags = read
        w_h, b_hn = constants
        for flag in flags:
            flag = jnp.broadcast_to(flag, h.shape)
            h = jnp.where(flag & RESET != 0, rows[0][...], h)
        new = gru_step_reset_after(h, (x_r, x_z, x_n), w_h[...], b_hn[...], _affine)
        for flag in flags:
            flag = jnp.broadcast_to(flag, h.shape)
            new = jnp.where(flag & VALID != 0, new, h)
        return new, new

    flags = _pack_flags(valid, resets)
    return walk(
        step,
        per_step=[*projected, *flags],
        constants=[w_h, b_hn[None]],
        rows=[initial],
        start=start,
        reverse=reverse,
        dtype=dtype,
    )


def _backward(
    walk: Callable[..., tuple[Array, Array]],
    d_states: Array,
    through: Array,
    slopes: Gates,
    u_transposed: Array,
    d_last: Array,
    *,
    reverse: bool,
) -> tuple[Array, Array]:
    def step(d: Array, read: list[Array], constants: list[Any], rows: list[Any]) -> Any:
        del rows
        d_state, through, *slopes = read
        d = d + d_state
        d_sums = jnp.concatenate([d * slope.astype(d.dtype) for slope in slopes], axis=-1)
        return d * through + _dot(d_sums, constants[0][...]), d

    return walk(
        step,
        per_step=[d_states, through, *slopes],
        constants=[u_transposed],
        rows=[],
        start=d_last,
        reverse=reverse,
        dtype=d_last.dtype,
    )


def _walk(
    step: Callable[..., tuple[Array, Array]],
    *,
    per_step: list[Array],
    constants: list[Array],
    rows: list[Array],
    start: Array,
    reverse: bool,
    dtype: DType,
    chip: Chip,
    interpret: Any,
) -> tuple[Array, Array]:
    """Carries a state over all steps.

    The grid is (tiles of the batch, blocks of time). A tile's state lives in VMEM from its first
    block to its last; constants have one place for all of the grid and are fetched once.

    Args:
        step: ``(carry, [what is read of a step], constants, rows) -> (carry, what is written)``.
        per_step: read at each step, (T, B, H or 1).
        constants: two axes, the same for all.
        rows: (B, H), the same for all steps.
        start: (B, H), the carry before the first step.
        reverse: whether step T - 1 comes first.
        dtype: of what is written at each step.
        chip: what the kernel has to fit into.
        interpret: as for ``pl.pallas_call``.

    Returns:
        What was written (T, B, H), and the last carry (B, H).
    """
    time, batch, _ = per_step[0].shape
    hidden = start.shape[-1]
    tile = fit(time, batch, hidden, constants[0].dtype.itemsize, chip)
    num_blocks = pl.cdiv(time, tile.steps)

    def time_block(index: Any) -> Any:
        return num_blocks - 1 - index if reverse else index

    def kernel(*refs: Any) -> None:
        ends = iter(refs)
        read = [next(ends) for _ in per_step]
        fixed = [next(ends) for _ in constants]
        of_rows = [next(ends) for _ in rows]
        first, written, last, carry = ends

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            carry[...] = first[...]

        count = tile.steps
        if time % tile.steps:
            count = jnp.minimum(count, time - time_block(pl.program_id(1)) * tile.steps)

        def body(index: Any, state: Array) -> Array:
            at = count - 1 - index if reverse else index
            state, out = step(state, [ref[at] for ref in read], fixed, of_rows)
            written[at] = out.astype(dtype)
            return state

        unroll = unrolled(tile, hidden) if isinstance(count, int) else None
        carry[...] = lax.fori_loop(0, count, body, carry[...], unroll=unroll)
        last[...] = carry[...]

    def block(array: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        if array.ndim == 3:
            shape = (tile.steps, tile.rows, array.shape[-1])
            return pl.BlockSpec(shape, lambda tile, index: (time_block(index), tile, 0))
        return pl.BlockSpec((tile.rows, hidden), lambda tile, index: (tile, 0))

    def whole(array: Array) -> pl.BlockSpec:
        # Fetched once, it needs no second buffer to be fetched into.
        return pl.BlockSpec(array.shape, lambda tile, index: (0, 0), pipeline_mode=pl.Buffered(1))

    results = (_like(start, (time, batch, hidden), dtype), _like(start, start.shape, start.dtype))
    written, last = pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(pl.cdiv(batch, tile.rows), num_blocks),
        in_specs=[*map(block, per_step), *map(whole, constants), *map(block, [*rows, start])],
        out_specs=[*map(block, results)],
        scratch_shapes=[pltpu.VMEM((tile.rows, hidden), start.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=chip.vmem_mib * 2**20
        ),
        interpret=interpret,
    )(*per_step, *constants, *rows, start)
    return written, last


def _pack_flags(valid: Array | None, resets: Array | None) -> list[Array]:
    """All flags of a step in one number, (T, B, 1); nothing where there are none."""
    if valid is None and resets is None:
        return []
    bits = jnp.int32(VALID) if valid is None else VALID * valid.astype(jnp.int32)
    if resets is not None:
        bits = bits + RESET * resets.astype(jnp.int32)
    return [bits[..., None]]


def _affine(operand: Array, weights: Array, addends: Sequence[Array | None]) -> tuple[Array, ...]:
    """:func:`gru_jax.affine` as a kernel computes it, where biases have two axes."""
    parts = jnp.split(_dot(operand, weights), len(addends), axis=-1)
    return tuple(
        part if addend is None else part + jnp.broadcast_to(addend, part.shape)
        for part, addend in zip(parts, addends, strict=True)
    )


def _dot(operand: Array, weights: Array) -> Array:
    """The product in the weights' dtype, exact where that is float32."""
    exact = weights.dtype != jnp.bfloat16
    return lax.dot_general(
        operand.astype(weights.dtype),
        weights,
        (((1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT,
        preferred_element_type=operand.dtype,
    )


def _like(array: Array, shape: tuple[int, ...], dtype: DType) -> jax.ShapeDtypeStruct:
    """The type of a result that differs from device to device as ``array`` does."""
    varying = jax.typeof(array).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
