"""Batches of a dataset of Grain: a run resumes exactly, and processes read parts of one order."""

import signal

import jax
import numpy as np
import pytest

from tests.training import parallel_problem, test_data_parallel, test_fit_resume
from tests.training import regression_problem as problem

pytest.importorskip("grain", reason="grain is not installed")


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    batch_at = problem.grain_dataset().__getitem__
    expected = problem.fit(whole, batch_at=batch_at)
    process = test_fit_resume.start(killed, "--grain", "--kill-at-batch", 35)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert 0 < problem.steps_on_disk(killed)[-1] <= 35
    result = problem.fit(killed, batch_at=batch_at, prefetch=2, max_to_keep=1)
    problem.assert_same_run(killed, result, whole, expected)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_processes_make_the_whole_batch(count):
    size = parallel_problem.BATCH_SIZE // count
    rows = [slice(start, start + size) for start in range(0, parallel_problem.BATCH_SIZE, size)]
    parts = [parallel_problem.grain_dataset(part) for part in rows]
    whole = parallel_problem.grain_dataset(slice(0, parallel_problem.BATCH_SIZE))
    for step in (0, 1, 2, 1000):
        joined = np.concatenate([part[step]["xs"] for part in parts], axis=1)
        np.testing.assert_array_equal(joined, whole[step]["xs"])


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    dataset = parallel_problem.grain_dataset(slice(0, parallel_problem.BATCH_SIZE))
    mesh = parallel_problem.make_mesh(jax.devices())
    parallel_problem.fit(one, mesh, batch_at=dataset.__getitem__)
    test_data_parallel.outputs(test_data_parallel.start_two(two, of_both=["--grain"]))
    test_data_parallel.assert_same_curves(two, one)
