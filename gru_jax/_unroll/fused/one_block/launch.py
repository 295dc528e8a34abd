"""Launch of a one-block kernel: its grid, and the batch tile of each block."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.one_block.tiles import MAX_IN_REGISTERS, UNITS
from gru_jax.typing import Array


def choose_tile(copies: int, batch: int, hidden: int, num_multiprocessors: int) -> int:
    """N, sequences of a tile: 8, or 16 if tiles of 8 were more than the device runs at once."""
    is_small = copies * pl.cdiv(batch, 8) <= num_multiprocessors
    # Larger sizes have no registers for more.
    return 8 if is_small or hidden > MAX_IN_REGISTERS else 16


def launch(
    kernel: Callable[..., None],
    inputs: list[Array],
    results: list[jax.ShapeDtypeStruct],
    *,
    grid: tuple[int, int],
    hidden: int,
    name: str,
    scratch_types: list[Any],
    interpret: Any,
) -> Any:
    """Runs ``kernel`` in a block for each copy and batch tile, a warpgroup for 64 units."""
    return plgpu.kernel(
        kernel,
        out_type=results,
        scratch_types=scratch_types,
        grid=grid,
        grid_names=("copy", "tile"),
        num_threads=hidden // UNITS,
        thread_name="warpgroup",
        kernel_name=name,
        # By default each store has two barriers of its warpgroup. Here it needs none: global memory
        # is either read or written, and `sync_block` is between stores and loads of shared memory.
        compiler_params=plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True),
        interpret=interpret,
    )(*inputs)


def tile_slice(batch: int, tile: int) -> Any:
    """The slice of this block's sequences.

    The last tile ends at the last sequence, so that it may share some with the tile before. Both
    compute the same bits for them.
    """
    return pl.ds(jnp.minimum(lax.axis_index("tile") * tile, batch - tile), tile)


def by_tile(array: Array, tile: int) -> Array:
    """(..., B) as (..., tiles, N), so that the values of a tile are aligned in memory."""
    batch = array.shape[-1]
    starts = np.minimum(np.arange(pl.cdiv(batch, tile)) * tile, batch - tile)
    return array[..., starts[:, None] + np.arange(tile)]
