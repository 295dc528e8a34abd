"""TensorBoard's scalars are those of the rows, also after an interrupted run."""

import math

import numpy as np
import pytest

from gru_jax import training
from tests.training import regression_problem as problem
from tests.training.tensorboard_reader import read_events, scalars


def writer_in(directory):
    rows = training.JsonlWriter(directory / "metrics.jsonl")
    return training.TensorBoardWriter(rows, directory / "tensorboard")


def expected(directory, *, without=()):
    """The scalars that the rows of a run should give."""
    found = []
    for row in training.read_metrics(directory / "metrics.jsonl"):
        for name, value in row.items():
            if name not in ("step", "split", "seconds", *without) and value is not None:
                tag = name if name == "steps_per_second" else f"{row['split']}/{name}"
                found.append((tag, row["step"], float(np.float32(value))))
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    with writer_in(directory) as writer:
        problem.fit(directory, metrics=writer)
    return directory


def test_the_scalars_are_those_of_the_rows(uninterrupted):
    found = scalars(uninterrupted / "tensorboard")
    assert found == expected(uninterrupted)
    assert {tag for tag, _, _ in found} >= {"train/loss", "validation/worst", "steps_per_second"}


def test_the_rows_are_those_of_a_run_without_it(uninterrupted, tmp_path):
    problem.fit(tmp_path)
    rows, with_it = (
        training.read_metrics(path / "metrics.jsonl") for path in (tmp_path, uninterrupted)
    )
    times = ("seconds", "steps_per_second")
    for row in (*rows, *with_it):
        for name in times:
            row.pop(name, None)
    assert rows == with_it


@pytest.mark.parametrize("is_used_before", [True, False])
def test_a_resumed_run_ends_like_an_uninterrupted_one(uninterrupted, tmp_path, is_used_before):
    def fail(index):
        if index == problem.STEPS // 2:
            raise RuntimeError("interrupted")
        return problem.batch_at(index)

    with writer_in(tmp_path) as writer, pytest.raises(RuntimeError, match="interrupted"):
        problem.fit(tmp_path, batch_at=fail, **({"metrics": writer} if is_used_before else {}))
    with writer_in(tmp_path) as writer:
        problem.fit(tmp_path, metrics=writer)
    found = scalars(tmp_path / "tensorboard")
    assert found == expected(tmp_path)
    assert [scalar for scalar in found if "/" in scalar[0]] == expected(
        uninterrupted, without=["steps_per_second"]
    )


def test_a_row_can_be_read_at_once(tmp_path):
    with writer_in(tmp_path) as writer:
        writer.resume_from(0)
        writer.write({"step": 1, "split": "train", "seconds": 2.0, "loss": 0.5, "worst": math.inf})
        assert scalars(tmp_path / "tensorboard") == [("train/loss", 1, 0.5)]


def test_times_are_the_seconds_of_the_run(tmp_path):
    with writer_in(tmp_path) as writer:
        writer.resume_from(0)
        for step, seconds in [(1, 0.5), (2, 100.5)]:
            writer.write({"step": step, "split": "train", "seconds": seconds, "loss": 0.5})
        writer.resume_from(2)
        writer.write({"step": 3, "split": "train", "seconds": 101.5, "loss": 0.5})
    times = [e.wall_time for e in read_events(tmp_path / "tensorboard") if e.summary.value]
    assert np.diff(times) == pytest.approx([100.0, 1.0])


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "tensorboard").touch()
    with (
        writer_in(tmp_path) as writer,
        pytest.raises(training.MetricsError, match=r"tensorboard cannot be written"),
    ):
        writer.resume_from(0)
