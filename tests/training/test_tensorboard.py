"""TensorBoard's files say what the rows say, also after a run was cut off."""

import math

import numpy as np
import pytest

from gru_jax import training
from tests.training import regression_problem as problem
from tests.training.tensorboard_reader import read_events, scalars


def log_in(directory):
    rows = training.MetricsLog(directory / "metrics.jsonl")
    return training.TensorBoardLog(rows, directory / "tensorboard")


def expected(directory, *, without=()):
    """The scalars that the rows of a run should have become."""
    found = []
    for row in training.read_metrics(directory / "metrics.jsonl"):
        for name, value in row.items():
            if name not in ("step", "split", "seconds", *without) and value is not None:
                tag = name if name == "steps_per_second" else f"{row['split']}/{name}"
                found.append((tag, row["step"], float(np.float32(value))))
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    with log_in(directory) as log:
        problem.fit(directory, metrics=log)
    return directory


def test_the_scalars_are_those_of_the_rows(unbroken):
    found = scalars(unbroken / "tensorboard")
    assert found == expected(unbroken)
    assert {tag for tag, _, _ in found} >= {"train/loss", "validation/worst", "steps_per_second"}


def test_the_rows_are_those_of_a_run_without_it(unbroken, tmp_path):
    problem.fit(tmp_path)
    rows, with_it = (training.read_metrics(path / "metrics.jsonl") for path in (tmp_path, unbroken))
    times = ("seconds", "steps_per_second")
    for row in (*rows, *with_it):
        for name in times:
            row.pop(name, None)
    assert rows == with_it


@pytest.mark.parametrize("is_used_before", [True, False])
def test_a_run_that_was_cut_off_ends_as_an_unbroken_one(unbroken, tmp_path, is_used_before):
    def fail(index):
        if index == problem.STEPS // 2:
            raise RuntimeError("cut off")
        return problem.batch_at(index)

    with log_in(tmp_path) as log, pytest.raises(RuntimeError, match="cut off"):
        problem.fit(tmp_path, batch_at=fail, **({"metrics": log} if is_used_before else {}))
    with log_in(tmp_path) as log:
        problem.fit(tmp_path, metrics=log)
    found = scalars(tmp_path / "tensorboard")
    assert found == expected(tmp_path)
    assert [scalar for scalar in found if "/" in scalar[0]] == expected(
        unbroken, without=["steps_per_second"]
    )


def test_a_row_can_be_read_at_once(tmp_path):
    with log_in(tmp_path) as log:
        log.begin(0)
        log.append({"step": 1, "split": "train", "seconds": 2.0, "loss": 0.5, "worst": math.inf})
        assert scalars(tmp_path / "tensorboard") == [("train/loss", 1, 0.5)]


def test_times_are_the_seconds_of_the_run(tmp_path):
    with log_in(tmp_path) as log:
        log.begin(0)
        for step, seconds in [(1, 0.5), (2, 100.5)]:
            log.append({"step": step, "split": "train", "seconds": seconds, "loss": 0.5})
        log.begin(2)
        log.append({"step": 3, "split": "train", "seconds": 101.5, "loss": 0.5})
    times = [e.wall_time for e in read_events(tmp_path / "tensorboard") if e.summary.value]
    assert np.diff(times) == pytest.approx([100.0, 1.0])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tensorboard").touch()
    with (
        log_in(tmp_path) as log,
        pytest.raises(training.MetricsError, match=r"tensorboard cannot be written"),
    ):
        log.begin(0)
