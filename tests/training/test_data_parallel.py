"""A run is the same on any number of devices and processes, and can change them at a resume."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gru_jax import training
from tests.training import parallel_problem as problem
from tests.training import regression_problem
from tests.training.regression_problem import rows_without_times, steps_on_disk

ROOT = Path(__file__).parents[2]
TIMEOUT = 240


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    return directory, problem.fit(directory)


def assert_same_curves(directory, other):
    rows, expected = rows_without_times(directory), rows_without_times(other)
    assert [(row["step"], row["split"]) for row in rows] == [
        (row["step"], row["split"]) for row in expected
    ]
    for row, like in zip(rows, expected, strict=True):
        for name in set(like) - {"split"}:
            np.testing.assert_allclose(row[name], like[name], rtol=1e-5, err_msg=f"{name} in {row}")


def start(directory, *options):
    command = [sys.executable, "-m", "tests.training.parallel_problem", str(directory)]
    return subprocess.Popen(
        [*command, *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(directory, *of_second, of_both=(), delay=0.0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--delay", delay)
    common += tuple(of_both)
    return [
        start(directory, *common, "--process", 0),
        start(directory, *common, "--process", 1, *of_second),
    ]


def outputs(processes):
    results = [process.communicate(timeout=TIMEOUT) for process in processes]
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    # Gloo announces its connections on the standard output.
    return [output.splitlines()[-1] for output, _ in results]


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("sharded", [False, True])
def test_curves_are_those_of_one_device(tmp_path, on_one_device, num_devices, sharded):
    mesh = problem.make_mesh(jax.devices()[:num_devices])
    result = problem.fit(tmp_path, mesh, sharded=sharded)
    assert_same_curves(tmp_path, on_one_device[0])
    is_replicated = num_devices == 1 or not sharded
    assert result.state.params.w_h.sharding.is_fully_replicated == is_replicated
    assert result.best_params.w_h.sharding.is_fully_replicated == is_replicated
    assert result.best_step == on_one_device[1].best_step


def test_a_mesh_with_explicit_axes(tmp_path, on_one_device):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,))
    problem.fit(tmp_path, mesh, sharded=True)
    assert_same_curves(tmp_path, on_one_device[0])


@pytest.mark.parametrize("layouts", [(2, 1), (1, 2)], ids=str)
def test_a_run_resumes_on_other_devices(tmp_path, on_one_device, layouts):
    first, second = (problem.make_mesh(jax.devices()[:number]) for number in layouts)
    answers = iter([None] * 25 + [signal.SIGTERM] * 2)
    stopped = problem.fit(tmp_path, first, sharded=layouts[0] == 2, stop=answers.__next__)
    assert (stopped.status, int(stopped.state.step)) == ("interrupted", 25)
    problem.fit(tmp_path, second, sharded=layouts[1] == 2)
    assert_same_curves(tmp_path, on_one_device[0])


def test_four_devices(tmp_path, on_one_device):
    outputs([start(tmp_path, "--devices", 4)])
    assert_same_curves(tmp_path, on_one_device[0])


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, on_one_device):
    """They end at the same step, write each row once, and one process resumes their run."""
    printed = outputs(start_two(tmp_path, "--terminate-at", 9, delay=0.1))
    status, step, *_ = printed[0].split()
    assert status == "interrupted"
    assert 9 < int(step) < problem.STEPS
    assert printed == [
        f"interrupted {step} rows 0 to 4",
        f"interrupted {step} rows 4 to 8",
    ]
    assert steps_on_disk(tmp_path)[-1] == int(step)
    problem.fit(tmp_path, problem.make_mesh(jax.devices()), resume="must")
    assert_same_curves(tmp_path, on_one_device[0])


def not_called(step):
    raise AssertionError(f"a finished run asks for the batch of step {step}")


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outputs(start_two(whole))
    outputs(start_two(stopped, "--terminate-at", 9, delay=0.1))
    outputs(start_two(stopped))
    assert rows_without_times(stopped) == rows_without_times(whole)
    results = [problem.fit(folder, batch_at=not_called) for folder in (whole, stopped)]
    regression_problem.assert_same(results[0].state, results[1].state)


@pytest.mark.slow
def test_a_process_whose_peer_died_ends_with_a_message(tmp_path):
    survivor, killed = start_two(tmp_path, "--kill-at", 9, delay=0.02)
    killed.communicate(timeout=TIMEOUT)
    died = time.monotonic()
    _, errors = survivor.communicate(timeout=TIMEOUT)
    assert time.monotonic() - died < 3 * problem.HEARTBEAT_TIMEOUT
    assert survivor.returncode != 0
    assert "another task died" in errors


def test_rows_of_a_process():
    parallel = problem.data_parallel(problem.make_mesh(jax.devices()[:2]))
    assert parallel.local_rows(8) == slice(0, 8)
    assert parallel.num_shards == 2


def test_arrays_that_are_not_split_are_replicated():
    mesh = problem.make_mesh(jax.devices())
    parallel = training.DataParallel(mesh, batch_axes=(1, None), carry_axes=1)
    batch = (np.zeros((3, 4)), {"table": np.ones((5,)), "key": jax.random.key(0)})
    xs, rest = parallel.batches(lambda step: batch)(0)
    assert xs.sharding.spec == PartitionSpec(None, "data")
    assert rest["table"].sharding.is_fully_replicated
    assert rest["key"].sharding.is_fully_replicated
    state = training.TrainState(jax.numpy.zeros(()), {"a": jax.numpy.ones(3)}, (), xs)
    placed = parallel.place_state(state)
    assert placed.params["a"].sharding.is_fully_replicated
    assert placed.carry.sharding.spec == PartitionSpec(None, "data")


def test_axes_may_be_counted_from_the_last_one():
    mesh = problem.make_mesh(jax.devices()[:2])
    for axis in (-1, 1):
        placed = training.DataParallel(mesh, batch_axes=axis).batches(lambda step: np.ones((3, 4)))
        assert placed(0).sharding.spec == PartitionSpec(None, "data")
    for axis in (2, -3):
        placed = training.DataParallel(mesh, batch_axes=axis).batches(lambda step: np.ones((3, 4)))
        with pytest.raises(ValueError, match=rf"axis {axis} .* shape \(3, 4\)"):
            placed(0)


def test_errors_name_what_does_not_fit():
    mesh = problem.make_mesh(jax.devices()[:2])
    with pytest.raises(ValueError, match=r"axis must be among .*'data'.*, got 'batch'"):
        training.DataParallel(mesh, axis="batch")
    with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh, got str"):
        training.DataParallel("data")
    parallel = training.DataParallel(mesh, batch_axes=1)
    with pytest.raises(ValueError, match=r"multiple of 2 sequences.* got 3 along axis 1"):
        parallel.batches(lambda step: np.zeros((4, 3)))(0)
    with pytest.raises(ValueError, match="multiple of 2 sequences"):
        parallel.local_rows(3)
