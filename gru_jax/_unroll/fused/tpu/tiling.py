"""Which sizes fit into a TPU's VMEM, and in which pieces: plain arithmetic."""

from typing import NamedTuple

LANES, SUBLANES = 128, 16
"""Of an array's last two axes, what they are padded to in VMEM (for bfloat16, the wider one)."""

LARGEST_HIDDEN = 2048
"""That is compiled in the tests; what is larger takes long to compile."""

STEPS = (16, 8, 4)
"""Of a block, the first that fits: enough that what starting a block costs is little beside it."""

PASSES = 512
"""Through the matrix unit, 8 rows by 128 by 128, that are laid out one after the other at most."""


class Chip(NamedTuple):
    """A kind of TPU.

    Attributes:
        vmem_mib: MiB of VMEM that each core has.
        cores: that work on one program.
    """

    vmem_mib: int
    cores: int


CHIPS = {
    "TPU v4": Chip(vmem_mib=16, cores=2),
    "TPU v5": Chip(vmem_mib=64, cores=2),
    "TPU v5p": Chip(vmem_mib=64, cores=2),
    "TPU v5 lite": Chip(vmem_mib=128, cores=1),
    "TPU v5e": Chip(vmem_mib=128, cores=1),
    "TPU v6 lite": Chip(vmem_mib=128, cores=1),
    "TPU v6e": Chip(vmem_mib=128, cores=1),
}
"""By the device's kind; figures from ``jax.experimental.pallas.tpu.get_tpu_info``."""


class Tile(NamedTuple):
    """What is in VMEM at once: so many steps of so many sequences."""

    steps: int
    rows: int


def largest_hidden(chip: Chip) -> int:
    """The largest hidden size that is served, with products in bfloat16."""
    smallest = Tile(STEPS[-1], SUBLANES)
    sizes = range(LANES, LARGEST_HIDDEN + 1, LANES)
    return max(size for size in sizes if bytes_of(smallest, size, 2) <= chip.vmem_mib * 2**20)


def fit(time: int, batch: int, hidden: int, itemsize: int, chip: Chip) -> Tile:
    """The largest tile that fits: as much of the batch as can be, then as many steps.

    Args:
        time, batch, hidden: T, B, H.
        itemsize: bytes of a number in the products' dtype.
        chip: what it has to fit into.

    Raises:
        ValueError: nothing does.
    """
    for rows in _row_counts(batch, chip.cores):
        for most in STEPS:
            tile = Tile(_divisor_near(time, most), rows)
            if bytes_of(tile, hidden, itemsize) <= chip.vmem_mib * 2**20:
                return tile
    raise ValueError(f"a hidden size of {hidden} does not fit into {chip.vmem_mib} MiB of VMEM")


def bytes_of(tile: Tile, hidden: int, itemsize: int) -> int:
    """What the larger of the kernels, the one for the way back, needs for a tile."""
    rows, row = _round_up(tile.rows, SUBLANES), _round_up(hidden, LANES)
    weights = 3 * row * row * itemsize
    # Two buffers of each block: three arrays in float32, three in the products' dtype, flags.
    streamed = 2 * tile.steps * rows * (row * (3 * 4 + 3 * itemsize) + LANES * 4)
    # Start and end in two buffers, the carry, and what a step computes.
    at_work = 20 * rows * row * 4
    return weights + streamed + at_work


def unrolled(tile: Tile, hidden: int) -> int:
    """How many steps of a block are laid out one after the other, so that they overlap.

    Few where a step is long by itself: what is laid out takes its time to be compiled.
    """
    passes = -(-tile.rows // 8) * 3 * (-(-hidden // LANES)) ** 2
    return max(1, min(tile.steps, PASSES // passes))


def _row_counts(batch: int, cores: int) -> list[int]:
    """Rows of a tile, most first: all of the batch, or parts that begin where registers do."""
    parts = sorted({_round_up(-(-batch // 2**n), SUBLANES) for n in range(1, 16)}, reverse=True)
    parts = [rows for rows in parts if rows < batch]
    # Each core takes tiles of its own.
    return parts if cores > 1 and parts else [batch, *parts]


def _divisor_near(time: int, most: int) -> int:
    """Steps of a block: at most ``most``, and a divisor of ``time`` where one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
