"""Tiles fit into the VMEM of a TPU."""

import pytest

from gru_jax._unroll.fused.tpu.tiling import (
    TPU_SPECS,
    Tile,
    choose_tile,
    max_hidden_size,
    vmem_bytes,
)


@pytest.mark.parametrize("kind", TPU_SPECS)
@pytest.mark.parametrize(("time", "batch"), [(1, 1), (2, 17), (37, 64), (512, 1000), (16, 4096)])
def test_tiles_choose_tile(kind, time, batch):
    spec = TPU_SPECS[kind]
    for hidden in (128, 640, max_hidden_size(spec)):
        tile = choose_tile(time, batch, hidden, 2, spec)
        assert vmem_bytes(tile, hidden, 2) <= spec.vmem_mib * 2**20
        assert 1 <= tile.steps <= time
        assert tile.batch == batch or (tile.batch % 16 == 0 and tile.batch < batch)


def test_what_does_not_fit_raises():
    assert vmem_bytes(Tile(4, 16), 1280, 2) <= 16 * 2**20 < vmem_bytes(Tile(4, 16), 1408, 2)
    with pytest.raises(ValueError, match="2048 does not fit into 16 MiB"):
        choose_tile(10, 10, 2048, 2, TPU_SPECS["TPU v4"])
