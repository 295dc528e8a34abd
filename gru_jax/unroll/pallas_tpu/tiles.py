"""Which sizes fit into a TPU's VMEM, and in which pieces: plain arithmetic."""

from typing import NamedTuple

VMEM_MIB = {
    "TPU v4": 16,
    "TPU v5": 64,
    "TPU v5p": 64,
    "TPU v5 lite": 128,
    "TPU v5e": 128,
    "TPU v6 lite": 128,
    "TPU v6e": 128,
}
"""VMEM of a core by the device's kind, from ``jax.experimental.pallas.tpu.get_tpu_info``."""

LANES = 128
"""Of a vector register: what the last axis of an array in VMEM is padded to."""

STEPS = 16
"""Of a block at most: enough that what starting a block costs is little beside its steps."""


class Tile(NamedTuple):
    """What is in VMEM at once: so many steps of so many sequences."""

    steps: int
    rows: int


def fit(time: int, batch: int, hidden: int, itemsize: int, vmem_bytes: int) -> Tile | None:
    """The largest tile that fits, all of the batch before more steps; None where none does.

    Args:
        time, batch, hidden: T, B, H.
        itemsize: bytes of a number in the products' dtype.
        vmem_bytes: of a core.
    """
    for rows in _row_counts(batch):
        for most in (STEPS, STEPS // 2, STEPS // 4):
            tile = Tile(_divisor_near(time, most), rows)
            if bytes_of(tile, hidden, itemsize) <= vmem_bytes:
                return tile
    return None


def bytes_of(tile: Tile, hidden: int, itemsize: int) -> int:
    """What the larger of the kernels, the one for the way back, needs for a tile."""
    weights = 3 * hidden * hidden * itemsize
    row = -(-hidden // LANES) * LANES
    padded_rows = -(-tile.rows // 16) * 16
    # Two buffers of each block: three arrays in float32, three in the products' dtype.
    streamed = 2 * tile.steps * padded_rows * (row * (3 * 4 + 3 * itemsize) + LANES * 4)
    # Start and end in two buffers, the carry, and what a step computes.
    at_work = 20 * padded_rows * row * 4
    return weights + streamed + at_work


def _row_counts(batch: int) -> list[int]:
    """Tiles of the batch from all of it down; parts of it are whole registers."""
    parts = (-(-batch // (count * 16)) * 16 for count in (2, 4, 8, 16, 32, 64, 128))
    return [batch, *(rows for rows in parts if 16 <= rows < batch)]


def _divisor_near(time: int, most: int) -> int:
    """Steps of a block: at most ``most``, and a divisor of ``time`` where one is near."""
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)
