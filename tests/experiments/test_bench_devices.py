"""`bench --devices`: work counted in compiled programs, and the report."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments import bench
from experiments.bench.hlo_work import work_of
from experiments.errors import UserError


def hlo_of(function, *arrays):
    return jax.jit(function).lower(*arrays).compile().as_text()


def test_matmuls_in_loops_count_once_for_each_iteration():
    matrix, xs = jnp.ones((8, 8)), jnp.ones((50, 4, 8))

    def scan(matrix, xs):
        return lax.scan(lambda carry, x: (jnp.tanh((carry + x) @ matrix),) * 2, xs[0], xs)

    work = work_of(hlo_of(scan, matrix, xs))
    assert work.flops == 50 * 2 * 4 * 8 * 8
    assert work.collectives == 0
    # All outputs are written, and each update in place writes its own step alone.
    outputs = 50 * 4 * 8 * 4
    assert outputs <= work.bytes_written <= 10 * outputs


def test_collectives_in_loops():
    mesh = jax.make_mesh((2,), ("data",))
    xs = jax.device_put(jnp.ones((2, 5)), NamedSharding(mesh, PartitionSpec("data")))

    def total(xs):
        return lax.scan(lambda carry, x: (carry + lax.psum(x, "data"), None), 0.0, xs[0])[0]

    run = jax.shard_map(total, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec())
    work = work_of(hlo_of(run, xs))
    assert (work.collectives, work.collectives_in_loops) == (5, 5)


def test_a_loop_of_unknown_length():
    def double(x):
        return lax.while_loop(lambda x: x < 100, lambda x: x * 2, x)

    with pytest.raises(ValueError, match="unknown length"):
        work_of(hlo_of(double, jnp.float32(1)))


@pytest.mark.slow
def test_the_command(tmp_path):
    arguments = ["--devices", "--sizes", "16,4,3,8", "--output", str(tmp_path)]
    assert bench.main(arguments) == 0
    result = json.loads(Path(tmp_path, "devices.json").read_text())
    work = result["sizes"]["16,4,3,8"]["work"]
    for layout in ("explicit", "auto"):
        for by_count in work[layout].values():
            assert [work["collectives_in_loops"] for work in by_count.values()] == [0, 0, 0]
            assert by_count["4"]["flops"] <= by_count["1"]["flops"] / 4
    assert "sharded over an automatic axis" in Path(tmp_path, "devices.md").read_text()


def test_a_batch_that_cannot_be_sharded():
    with pytest.raises(UserError, match="multiple of 4, got 6"):
        bench.main(["--devices", "--sizes", "6,4,3,6"])


def test_the_published_shares():
    """FLOPs and bytes are 1/n; bytes are also those of one device with a shard alone."""
    report = json.loads(Path(__file__).parents[2].joinpath("benchmarks/devices.json").read_text())
    for measured in report["sizes"].values():
        for layout in ("explicit", "auto"):
            numbers = set()
            for by_count in measured["work"][layout].values():
                for count, work in by_count.items():
                    assert work["collectives_in_loops"] == 0
                    if count != "1":
                        numbers.add(work["collectives"])
                    for key in ("flops", "bytes_written"):
                        assert work[key] * int(count) / by_count["1"][key] < 1.05
                    assert work["bytes_written"] / work["shard_bytes_written"] < 1.05
                    if layout == "explicit":
                        assert work["bytes_written"] / work["shard_bytes_written"] < 1.001
            assert len(numbers) == 1
