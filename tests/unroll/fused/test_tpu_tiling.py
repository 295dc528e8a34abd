"""What is in the VMEM of a TPU at once fits into it."""

import pytest

from gru_jax._unroll.fused.tpu.tiling import CHIPS, Tile, bytes_of, fit, largest_hidden


@pytest.mark.parametrize("kind", CHIPS)
@pytest.mark.parametrize(("time", "batch"), [(1, 1), (2, 17), (37, 64), (512, 1000), (16, 4096)])
def test_tiles_fit(kind, time, batch):
    chip = CHIPS[kind]
    for hidden in (128, 640, largest_hidden(chip)):
        tile = fit(time, batch, hidden, 2, chip)
        assert bytes_of(tile, hidden, 2) <= chip.vmem_mib * 2**20
        assert 1 <= tile.steps <= time
        assert tile.rows == batch or (tile.rows % 16 == 0 and tile.rows < batch)


def test_what_does_not_fit_is_said():
    assert bytes_of(Tile(4, 16), 1280, 2) <= 16 * 2**20 < bytes_of(Tile(4, 16), 1408, 2)
    with pytest.raises(ValueError, match="2048 does not fit into 16 MiB"):
        fit(10, 10, 2048, 2, CHIPS["TPU v4"])
