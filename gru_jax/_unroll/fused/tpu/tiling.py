"""Choice of the block sizes that fit into a TPU's VMEM: plain arithmetic."""

from typing import NamedTuple

from gru_jax._unroll.chunks import divisor_near

# Multiples to which VMEM pads an array's last two axes (for bfloat16, the wider one).
LANES, SUBLANES = 128, 16
# The largest hidden size that the tests compile; larger ones take long to compile.
MAX_HIDDEN_SIZE = 2048
# Steps of a block, most first: enough to hide the cost of starting one.
BLOCK_STEPS = (16, 8, 4)
# Passes through the matrix unit, 8 rows by 128 by 128 each, in the unrolled part of a loop.
MAX_UNROLLED_MXU_PASSES = 512


class TpuSpec(NamedTuple):
    """Limits of a kind of TPU."""

    vmem_mib: int  # MiB of VMEM of each core
    cores: int  # that run one program


TPU_SPECS = {
    "TPU v4": TpuSpec(vmem_mib=16, cores=2),
    "TPU v5": TpuSpec(vmem_mib=64, cores=2),
    "TPU v5p": TpuSpec(vmem_mib=64, cores=2),
    "TPU v5 lite": TpuSpec(vmem_mib=128, cores=1),
    "TPU v5e": TpuSpec(vmem_mib=128, cores=1),
    "TPU v6 lite": TpuSpec(vmem_mib=128, cores=1),
    "TPU v6e": TpuSpec(vmem_mib=128, cores=1),
}
"""By JAX's name of the device kind; values from ``jax.experimental.pallas.tpu.get_tpu_info``."""


class Tile(NamedTuple):
    """The block that is in VMEM at a time: this many steps of this many sequences."""

    steps: int
    batch: int


def max_hidden_size(spec: TpuSpec) -> int:
    """The largest supported hidden size, for matmuls in bfloat16."""
    smallest = Tile(BLOCK_STEPS[-1], SUBLANES)
    sizes = range(LANES, MAX_HIDDEN_SIZE + 1, LANES)
    return max(size for size in sizes if vmem_bytes(smallest, size, 2) <= spec.vmem_mib * 2**20)


def choose_tile(time: int, batch: int, hidden: int, itemsize: int, spec: TpuSpec) -> Tile:
    """The largest tile that fits: as many sequences as possible, then as many steps.

    ``itemsize`` is of the matmul dtype, in bytes. ValueError if no tile fits.
    """
    for tile_batch in _batch_tile_candidates(batch, spec.cores):
        for most in BLOCK_STEPS:
            tile = Tile(divisor_near(time, most), tile_batch)
            if vmem_bytes(tile, hidden, itemsize) <= spec.vmem_mib * 2**20:
                return tile
    raise ValueError(f"a hidden size of {hidden} does not fit into {spec.vmem_mib} MiB of VMEM")


def vmem_bytes(tile: Tile, hidden: int, itemsize: int) -> int:
    """The VMEM that a tile takes in the backward kernel, the larger of the two."""
    rows, row = _round_up(tile.batch, SUBLANES), _round_up(hidden, LANES)
    weights = 3 * row * row * itemsize
    # Two buffers of each block: three arrays in float32, three in the matmul dtype, flags.
    streamed = 2 * tile.steps * rows * (row * (3 * 4 + 3 * itemsize) + LANES * 4)
    # Two buffers of the first and of the last state, the carry, and a step's temporaries.
    temporaries = 20 * rows * row * 4
    return weights + streamed + temporaries


def unroll_factor(tile: Tile, hidden: int) -> int:
    """How many steps of a block are unrolled, so that they overlap.

    Fewer where one step is long by itself: unrolled steps take time to compile.
    """
    passes = -(-tile.batch // 8) * 3 * (-(-hidden // LANES)) ** 2
    return max(1, min(tile.steps, MAX_UNROLLED_MXU_PASSES // passes))


def _batch_tile_candidates(batch: int, cores: int) -> list[int]:
    """Batch sizes of a tile, largest first: the whole batch, or aligned fractions of it."""
    fractions = {_round_up(-(-batch // 2**n), SUBLANES) for n in range(1, 16)}
    candidates = sorted((size for size in fractions if size < batch), reverse=True)
    # Each core takes tiles of its own.
    return candidates if cores > 1 and candidates else [batch, *candidates]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
