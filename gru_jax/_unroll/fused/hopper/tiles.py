"""A member's part of arrays in global memory, as (units, sequences) in registers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper.cluster import SEQUENCES, UNITS, Ref
from gru_jax.typing import Array

PREFETCHED = 8
"""How many steps ahead memory is brought into the device's cache."""

WGMMA = plgpu.Layout.WGMMA
WGMMA_TRANSPOSED = plgpu.Layout.WGMMA_TRANSPOSED

LOAD_TAKES_INDEX = jax.__version_info__ < (0, 11)


def prefetch_tile(ref: Ref, *step: Any) -> None:
    """Brings the caller's part of ``ref[step]`` from memory into the cache of the device (L2)."""
    plgpu.async_prefetch(ref.at[(*step, _my_sequences(), _my_units())])


def load_tile(ref: Ref, *step: Any) -> Array:
    """The caller's part of ``ref[step]`` (B, H), in the layout of memory: see :func:`turn`.

    Nothing waits for it until it is used.
    """
    # Neighbours in memory are units, which this layout keeps in one thread: what is read are
    # whole sectors.
    return load(_tile_of(ref, step), WGMMA_TRANSPOSED)


def load_carry(ref: Ref) -> Array:
    """:func:`load_tile` of what a loop begins with.

    Within :func:`jax.shard_map` the type of what is loaded says that it differs from device to
    device, that of what is computed does not, and a loop's carry has to keep its type.
    """
    tile = load_tile(ref)
    return jnp.maximum(tile, tile)


def store_tile(ref: Ref, tile: Array, *step: Any) -> None:
    """Writes what :func:`load_tile` reads, in the dtype of ``ref``."""
    tile = tile.astype(ref.dtype)
    # Newer versions refuse to assign what is not whole sectors, as bfloat16 here is not.
    store = getattr(plgpu, "store", None)
    if store is None:
        _tile_of(ref, step)[...] = tile
    else:
        store(_tile_of(ref, step), tile, optimized=False)


def turn(tile: Array, layout: Any) -> Array:
    """A tile in another layout, WGMMA of products or WGMMA_TRANSPOSED of memory.

    That is an exchange between lanes, so that what was asked for must have come.
    """
    return plgpu.layout_cast(tile, layout)


def load_of_units(ref: Ref) -> Array:
    """The caller's part of ``ref`` (H,), the same for all sequences."""
    column = load(ref.at[_my_units()], WGMMA.reduce(1))
    return plgpu.layout_cast(lax.broadcast_in_dim(column, (UNITS, SEQUENCES), (0,)), WGMMA)


def load_flags(ref: Ref, step: Any) -> Array:
    """The flags of the caller's sequences at a step, (sequences,), from (T, B) int32."""
    return load(ref.at[step, _my_sequences()], WGMMA.reduce(0))


def choose(flags: Array, on_set: Array, on_zero: Array) -> Array:
    """One tile where a sequence's flag is not 0, and another where it is."""
    flags = plgpu.layout_cast(lax.broadcast_in_dim(flags, on_set.shape, (1,)), WGMMA)
    return jnp.where(flags != 0, on_set, on_zero)


def load(ref: Ref, layout: Any) -> Array:
    """An array from memory, laid out over the registers of a warpgroup."""
    index = ((),) if LOAD_TAKES_INDEX else ()
    return plgpu.load(ref, *index, layout=layout, optimized=False)


def _tile_of(ref: Ref, step: tuple[Any, ...]) -> Ref:
    return ref.at[(*step, _my_sequences(), _my_units())].transpose((1, 0))


def _my_units() -> Any:
    return pl.ds(pl.multiple_of(lax.axis_index("member") * UNITS, UNITS), UNITS)


def _my_sequences() -> Any:
    return pl.ds(pl.multiple_of(lax.axis_index("tile") * SEQUENCES, SEQUENCES), SEQUENCES)
