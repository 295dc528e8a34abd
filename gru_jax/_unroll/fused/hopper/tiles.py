"""Loads, stores and register layouts of a CTA's tile (M, N) of arrays in global memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper.cluster import TILE_BATCH, UNITS_PER_CTA, Ref
from gru_jax.typing import Array

PREFETCH_DISTANCE = 8  # how many steps ahead tiles are prefetched into the L2 cache
WGMMA = plgpu.Layout.WGMMA
WGMMA_TRANSPOSED = plgpu.Layout.WGMMA_TRANSPOSED
LOAD_REQUIRES_INDEX = jax.__version_info__ < (0, 11)


def prefetch_tile(ref: Ref, *step: Any) -> None:
    """Prefetches this CTA's tile of ``ref[step]`` (B, H) into the L2 cache."""
    plgpu.async_prefetch(ref.at[(*step, _batch_slice(), _unit_slice())])


def load_tile(ref: Ref, *step: Any) -> Array:
    """This CTA's tile (M, N) of ``ref[step]`` (B, H), in the layout WGMMA_TRANSPOSED.

    The load is asynchronous: the first use of the tile waits for it.
    """
    # This layout keeps units, which are adjacent in memory, in one thread: whole sectors are read.
    return load(_tile_ref(ref, step), WGMMA_TRANSPOSED)


def load_carry(ref: Ref) -> Array:
    """:func:`load_tile` for the initial carry of a loop.

    Within :func:`jax.shard_map` a loaded array has a type that varies over devices, and a computed
    array has not. A loop's carry has to keep its type, so this returns a computed array.
    """
    tile = load_tile(ref)
    return jnp.maximum(tile, tile)


def store_tile(ref: Ref, tile: Array, *step: Any) -> None:
    """Stores a tile (M, N) to where :func:`load_tile` reads it, in the dtype of ``ref``."""
    tile = tile.astype(ref.dtype)
    destination = _tile_ref(ref, step)
    # Newer versions of JAX reject an assignment of partial sectors, as a bfloat16 tile has.
    store = getattr(plgpu, "store", None)
    if store is None:
        destination[...] = tile
    else:
        store(destination, tile, optimized=False)


def relayout(tile: Array, layout: Any) -> Array:
    """A tile in another register layout: WGMMA for matmuls, WGMMA_TRANSPOSED for memory.

    This exchanges registers between lanes, so it waits for a load in flight.
    """
    return plgpu.layout_cast(tile, layout)


def load_bias(ref: Ref) -> Array:
    """This CTA's part of ``ref`` (H,), broadcast over sequences to (M, N)."""
    column = load(ref.at[_unit_slice()], WGMMA.reduce(1))
    column = lax.broadcast_in_dim(column, (UNITS_PER_CTA, TILE_BATCH), (0,))
    return plgpu.layout_cast(column, WGMMA)


def load_flags(ref: Ref, step: Any) -> Array:
    """The flags (N,) of the batch tile at a step of ``ref`` (T, B)."""
    return load(ref.at[step, _batch_slice()], WGMMA.reduce(0))


def select_per_sequence(flags: Array, on_set: Array, on_zero: Array) -> Array:
    """``on_set`` (M, N) where a sequence's flag (N,) is not zero, ``on_zero`` elsewhere."""
    flags = plgpu.layout_cast(lax.broadcast_in_dim(flags, on_set.shape, (1,)), WGMMA)
    return jnp.where(flags != 0, on_set, on_zero)


def load(ref: Ref, layout: Any) -> Array:
    """Loads an array into the registers of a warpgroup."""
    index = ((),) if LOAD_REQUIRES_INDEX else ()
    return plgpu.load(ref, *index, layout=layout, optimized=False)


def _tile_ref(ref: Ref, step: tuple[Any, ...]) -> Ref:
    return ref.at[(*step, _batch_slice(), _unit_slice())].transpose((1, 0))


def _unit_slice() -> Any:
    start = pl.multiple_of(lax.axis_index("cta") * UNITS_PER_CTA, UNITS_PER_CTA)
    return pl.ds(start, UNITS_PER_CTA)


def _batch_slice() -> Any:
    start = pl.multiple_of(lax.axis_index("batch_tile") * TILE_BATCH, TILE_BATCH)
    return pl.ds(start, TILE_BATCH)
