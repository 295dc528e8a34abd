"""Tiles of a thread block, and how they are loaded, stored and combined.

Notation:
    H: hidden units, 64, 128 or 192; the kernels see padded ones.
    M: units of a warpgroup, 64, the rows of its matmuls; there are H / M warpgroups.
    N: sequences of a batch tile, 8 or 16, the columns.
A warpgroup's arrays in registers are (M, N).
"""
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# jax 0.10 lacks what these kernels need of Pallas.

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax.typing import Array, DType

Ref = Any
"""A reference of Pallas: memory of a kernel, or a part of it."""

UNITS = 64
"""M, a multiple of 16 rows for each of the four warps of a warpgroup (PTX ISA, mma.m16n8k16)."""

MAX_IN_REGISTERS = 128
"""The largest H whose weights of all gates fit into the registers of a block."""

CHUNK = 32
"""Units whose weights and states are multiplied at once."""

SWIZZLED: Any = (plgpu.TilingTransform((8, CHUNK)), plgpu.SwizzleTransform(2 * CHUNK))
"""Layout of shared memory: the rows of 8 x 8 elements of 16 bits, which one instruction reads, are
in different banks."""

ACCUMULATOR = plgpu.Layout.WGMMA
"""Layout of a matmul's accumulator, in which gates are computed."""

MEMORY = plgpu.Layout.WGMMA_TRANSPOSED
"""Layout of loads and stores: units, which are adjacent in memory, are in one thread."""


def sigmoid(x: Array) -> Array:
    """The logistic function."""
    return jax.nn.sigmoid(x)


def tanh(x: Array) -> Array:
    """``jnp.tanh``, whose fast instruction has no more than 11 bits (PTX ISA, tanh.approx)."""
    return 2 * sigmoid(2 * x) - 1


def relayout(tile: Array, layout: Any) -> Array:
    """A tile in another layout. It exchanges registers, so it waits for a load in flight."""
    return plgpu.layout_cast(tile, layout)


def load(ref: Ref, layout: Any) -> Array:
    """Loads an array into the registers of a warpgroup."""
    return plgpu.load(ref, layout=layout, optimized=False)


def own_units(gate: int = 0, hidden: int = 0) -> Any:
    """The slice of this warpgroup's units, in a packed axis those of a gate."""
    start = gate * hidden + lax.axis_index("warpgroup") * UNITS
    return pl.ds(pl.multiple_of(start, UNITS), UNITS)


def time_index(reverse: Array, time: int) -> Callable[[Array | int], Array]:
    """The function from a step in the order of reading to its place on the axis of time.

    Steps past the last one are taken for the last one.

    Args:
        reverse: 1 if step ``time - 1`` is read first, otherwise 0.
        time: T.
    """
    first, stride = (time - 1) * reverse, 1 - 2 * reverse
    return lambda step: first + stride * jnp.minimum(step, time - 1)


def load_tile(ref: Ref, layout: Any = MEMORY) -> Array:
    """``ref`` (N, M) in global memory, transposed. The first use waits for the load."""
    tile = load(ref.transpose((1, 0)), MEMORY)
    return tile if layout is MEMORY else relayout(tile, layout)


def store_tile(ref: Ref, tile: Array) -> None:
    """Stores a tile of layout ACCUMULATOR to ``ref`` (N, M) in global memory, in its dtype."""
    tile = relayout(tile, MEMORY).astype(ref.dtype)
    target = ref.transpose((1, 0))
    store = getattr(plgpu, "store", None)
    if store is None:  # jax 0.11
        target[...] = tile
    else:
        store(target, tile, optimized=False)


def load_units(ref: Ref, num_sequences: int) -> Array:
    """This warpgroup's part of ``ref`` (H,), broadcast over sequences to (M, N)."""
    column = load(ref.at[own_units()], ACCUMULATOR.reduce(1))
    column = lax.broadcast_in_dim(column, (UNITS, num_sequences), (0,))
    return relayout(column, ACCUMULATOR)


def load_sequences(ref: Ref) -> Array:
    """``ref`` (N,), broadcast over units to (M, N)."""
    row = load(ref, ACCUMULATOR.reduce(0))
    row = lax.broadcast_in_dim(row, (UNITS, *row.shape), (1,))
    return relayout(row, ACCUMULATOR)


def operand_scratch(num_sequences: int, columns: int, dtype: DType) -> Any:
    """Shared memory (2, N, columns) for the operands of even and of odd steps."""
    return plgpu.SMEM((2, num_sequences, columns), dtype, transforms=SWIZZLED)


def load_operand(ref: Ref) -> Array:
    """The operand (columns, N) of a matmul, from a slot (N, columns) of shared memory."""
    return load(ref.transpose((1, 0)), plgpu.Layout.MMA_RHS(ref.dtype))


def shared_weights(hidden: int, dtype: DType) -> list[Any]:
    """Shared memory (H, H) for a gate's weights, if registers do not hold those of all gates."""
    if hidden <= MAX_IN_REGISTERS:
        return []
    return [plgpu.SMEM((hidden, hidden), dtype, transforms=SWIZZLED)]


def load_weights(gates: list[Ref], shared: list[Ref]) -> list[list[Callable[[], Array]]]:
    """The other operands of the matmuls: for each gate and chunk of columns a function.

    Args:
        gates: weights of this warpgroup's units (M, H), in global memory.
        shared: the scratch of :func:`shared_weights`, which is to hold the last gate's.
    """
    parts = chunks(gates[0].shape[1])
    weights: list[list[Callable[[], Array]]] = []
    for gate in gates:
        loaded = [load_lhs(gate.at[:, part]) for part in parts]
        weights.append([lambda chunk=chunk: chunk for chunk in loaded])
    for ref in shared:
        own = ref.at[own_units()]
        for part, chunk in zip(parts, weights[-1], strict=True):
            own.at[:, part][...] = chunk()
        weights[-1] = [functools.partial(load_lhs, own.at[:, part]) for part in parts]
    return weights


def load_lhs(ref: Ref) -> Array:
    """Weights (M, columns) as the left operand of a matmul."""
    return load(ref, plgpu.Layout.MMA_LHS(ref.dtype))


def chunks(hidden: int) -> list[Any]:
    """Slices of hidden units that are multiplied one after another, to hold few in registers."""
    return [pl.ds(start, CHUNK) for start in range(0, hidden, CHUNK)]


def sync_block(barrier: Ref) -> None:
    """Waits until all threads of the block have stored what they stored before."""
    plgpu.barrier_arrive(barrier)
    plgpu.barrier_wait(barrier)


def carry(tile: Array) -> Array:
    """A loaded tile as the initial carry of a loop.

    Within :func:`jax.shard_map` a loaded array has a type that varies over devices, and a computed
    array has not. A loop's carry has to keep its type, so this returns a computed array.
    """
    return jnp.maximum(tile, tile)
