"""The schedule is a pure function of integers."""

import dataclasses

import pytest

from gru_jax._unroll.xla.schedule import (
    UNSHARDED,
    ForwardSchedule,
    GradientSchedule,
    Sizes,
    schedule,
    schedule_any_size,
)
from gru_jax._unroll.xla.tuning import ACCELERATOR_TUNING, CPU_TUNING, ShardTuning, has_avx512
from tests.unroll.tuning_overrides import override

TUNING = dataclasses.replace(CPU_TUNING, shards=ShardTuning(max_shards=2))


def gru_sizes(batch, time, features, units, **options):
    """Sizes of a GRU: 3 projected leaves, 4 arrays saved, 5 derivatives a step."""
    state = batch * units
    return Sizes(
        time=time,
        sequences=batch,
        features=features,
        state=state,
        largest_leaf=state,
        units=units,
        params=3 * units * (features + units),
        projected=3 * state,
        jacobians=5,
        residuals=4,
        **{"can_shard": True, **options},
    )


def test_a_large_batch_is_split_over_two_cores():
    plan = schedule(gru_sizes(33, 256, 64, 128), TUNING)
    shards = (slice(0, 16), slice(16, 33))
    assert plan.forward.shards == plan.gradient.shards == shards
    assert plan.forward.project_in_loop


@pytest.mark.parametrize(
    "sizes",
    [
        gru_sizes(32, 256, 64, 128, can_shard=False),
        gru_sizes(15, 256, 64, 128),  # shards of fewer than eight rows
        gru_sizes(32, 16, 64, 128),  # fewer states than the threshold
        gru_sizes(32, 256, 64, 128, cores_per_device=1),  # two devices on two cores
    ],
)
def test_a_batch_that_is_not_split(sizes):
    plan = schedule(sizes, TUNING)
    assert plan.forward.shards == plan.gradient.shards == UNSHARDED


def test_devices_share_the_cores():
    tuning = dataclasses.replace(CPU_TUNING, shards=ShardTuning(max_shards=4))
    for cores, shards in ((None, 4), (8, 4), (3, 3), (2, 2), (0, 1)):
        plan = schedule(gru_sizes(64, 256, 64, 128, cores_per_device=cores), tuning)
        assert len(plan.gradient.shards) == shards


def test_many_parameters_are_split_for_a_gradient_alone():
    plan = schedule(gru_sizes(64, 128, 256, 512), TUNING)
    assert plan.forward.shards == UNSHARDED
    assert plan.gradient.shards != UNSHARDED


def test_a_wide_layer_projects_some_steps_at_a_time():
    plan = schedule(gru_sizes(16, 512, 256, 512), TUNING)
    block = plan.forward.time_block
    assert block is not None
    assert 512 % block == 0
    assert block * 16 * 3 * 512 <= TUNING.time_block.elements


@pytest.mark.parametrize(
    ("sizes", "save"),
    [
        (gru_sizes(1, 512, 64, 64), "projected"),
        (gru_sizes(128, 64, 32, 32), "projected"),
        (gru_sizes(32, 256, 64, 128), "preactivations"),
        (gru_sizes(64, 512, 32, 64), "states"),
        (gru_sizes(16, 512, 256, 512), "preactivations"),
    ],
)
def test_residuals(sizes, save):
    assert schedule(sizes, TUNING).gradient.save == save


def test_wide_layers_recompute_where_matmuls_are_fast():
    sizes = gru_sizes(128, 64, 128, 128)
    for features, save in ((224, "preactivations"), (384, "states")):
        tuning = override(TUNING, residuals={"recompute_max_features": features})
        assert schedule(sizes, tuning).gradient.save == save


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx avx2\nbugs\t\t: avx512f\n", False),
        ("Features\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_avx_512_is_looked_up(tmp_path, content, expected):
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_text(content)
    assert has_avx512(str(path)) == expected


def test_recomputing_saves_the_states_and_has_chunks_of_an_eighth():
    sizes = gru_sizes(1, 512, 64, 64, recompute=True)
    gradient = schedule(sizes, TUNING).gradient
    assert (gradient.save, gradient.max_chunk_steps) == ("states", 64)


def test_live_cells_share_the_budget():
    """One cell's preactivations fit; those of several do not, and wide layers save them anyway."""
    one, four = (
        schedule(gru_sizes(32, 240, 64, 128, num_live_cells=cells), TUNING).gradient
        for cells in (1, 4)
    )
    assert one.save == four.save == "preactivations"
    assert one.max_chunk_steps < four.max_chunk_steps == TUNING.chunk.min_rows // 32


def test_accelerators_project_before_the_loop_and_save_the_states():
    plan = schedule(gru_sizes(64, 512, 256, 256, can_shard=False), ACCELERATOR_TUNING)
    assert plan.forward == ForwardSchedule()
    assert plan.gradient == GradientSchedule("states", max_chunk_steps=2**25 // (64 * 256))


@pytest.mark.parametrize(
    ("tuning", "recompute", "save"),
    [
        (TUNING, False, "preactivations"),
        (TUNING, True, "states"),
        (ACCELERATOR_TUNING, False, "states"),
    ],
)
def test_sizes_that_are_not_known_have_one_chunk(tuning, recompute, save):
    plan = schedule_any_size(1000, tuning, recompute=recompute)
    assert plan.forward == ForwardSchedule()
    assert plan.gradient == GradientSchedule(save, max_chunk_steps=1000)


def test_no_size_is_too_small():
    for sizes in (gru_sizes(0, 4, 3, 2), gru_sizes(1, 1, 1, 1), gru_sizes(4, 1, 0, 1)):
        plan = schedule(sizes, TUNING)
        assert plan.gradient.max_chunk_steps >= 1


@pytest.mark.parametrize(
    ("batch", "mapped", "expected"),
    [(16, 1, 8), (8, 1, 16), (7, 1, None), (4, 2, 16), (512, 1, 2)],
)
def test_copies_take_turns_where_each_has_work_enough(batch, mapped, expected):
    plan = schedule(gru_sizes(batch, 128, 64, 64, has_one_device=True), CPU_TUNING)
    assert plan.copies.least_copies(mapped) == expected


def test_copies_may_be_on_several_devices():
    sizes = gru_sizes(16, 128, 64, 64)
    assert schedule(sizes, CPU_TUNING).copies is None
    on_one = dataclasses.replace(sizes, has_one_device=True)
    assert schedule(on_one, ACCELERATOR_TUNING).copies is None


@pytest.mark.parametrize(("batch", "expected"), [(128, 10), (256, 5), (512, 4), (1024, 4)])
def test_a_chunk_of_a_large_batch_has_some_steps(batch, expected):
    plan = schedule(gru_sizes(batch, 128, 128, 128), CPU_TUNING)
    assert plan.gradient.max_chunk_steps == expected
