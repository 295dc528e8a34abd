"""A run that ended for any reason resumes to the result of an uninterrupted one."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gru_jax import training
from tests.training import regression_problem as problem

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, problem.fit(directory)


def start(directory, *options):
    command = [
        sys.executable,
        "-m",
        "tests.training.regression_problem",
        str(directory),
        *map(str, options),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "kills",
    [
        [("--kill-in-save", 35)],
        # Before the first checkpoint, during a save, and between two saves.
        pytest.param(
            [
                ("--kill-at-batch", 3),
                ("--kill-in-save", 7),
                ("--kill-at-batch", 14),
                ("--kill-in-save", 35),
                ("--kill-in-save", 60),
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["once", "again and again"],
)
def test_killed_run_resumes_to_the_uninterrupted_one(tmp_path, uninterrupted, kills):
    for option, step in kills:
        process = start(tmp_path, option, step)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, max_to_keep=1), *uninterrupted)


@pytest.mark.slow
def test_run_killed_at_random_moments_equals_the_uninterrupted_one(tmp_path, uninterrupted):
    moments = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, "--delay", 0.01)
        for line in process.stdout:
            if line.strip().isdigit() and moments.random() < 0.06:
                time.sleep(moments.uniform(0, 0.02))
                break
        process.kill()
        process.communicate(timeout=120)
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signalled_program_saves_and_exits_normally(tmp_path, uninterrupted, number):
    process = start(tmp_path, "--delay", 0.02)
    for line in process.stdout:
        if line.strip() == "16":
            break
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.split()[-1] == "interrupted"
    assert errors == ""
    assert problem.steps_on_disk(tmp_path)[-1] >= 17
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, resume="must"), *uninterrupted)


def interrupted(directory, index):
    def batch_at(step):
        if step == index:
            raise RuntimeError("stop here")
        return problem.batch_at(step)

    with pytest.raises(RuntimeError, match="stop here"):
        problem.fit(directory, batch_at=batch_at)


def corrupt(directory, step):
    for path in (directory / "checkpoints" / str(step) / "arrays" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-7])


def test_best_before_the_break_stays_the_best(tmp_path):
    """The count of early stopping is in the checkpoint and continues after a resume."""
    values = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.0]

    def evaluate_from(count):
        remaining = iter(values[count:])
        return {"evaluate": lambda params: {"loss": next(remaining)}, "monitor": "loss"}

    whole = problem.fit(patience=4, **evaluate_from(0))
    assert (whole.status, whole.best_step) == ("early_stopped", 14)
    problem.fit(tmp_path, steps=28, patience=4, **evaluate_from(0))
    resumed = problem.fit(tmp_path, patience=4, **evaluate_from(4))
    problem.assert_same(resumed.state, whole.state)
    problem.assert_same(resumed.best_params, whole.best_params)
    assert (resumed.status, resumed.best_step) == ("early_stopped", 14)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_corrupted_latest_checkpoint_falls_back_to_the_one_before(
    tmp_path, uninterrupted, caplog, resume
):
    interrupted(tmp_path, 30)
    corrupt(tmp_path, 28)
    result = problem.fit(tmp_path, resume=resume)
    problem.assert_same_run(tmp_path, result, *uninterrupted)
    assert str(tmp_path / "checkpoints" / "28") in caplog.text
    assert len(list((tmp_path / "checkpoints" / "corrupted").iterdir())) == 1


def test_corrupted_best_checkpoint_warns_and_the_run_resumes(tmp_path, caplog):
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0, 1.5, 3.0, 3.0, 3.0])
    options = {"evaluate": lambda params: {"loss": next(values)}, "monitor": "loss"}
    problem.fit(tmp_path, steps=28, **options)
    assert problem.steps_on_disk(tmp_path) == [7, 21, 28]
    corrupt(tmp_path, 7)
    result = problem.fit(tmp_path, **options)
    assert "the next evaluation counts as best" in caplog.text
    assert (result.best_step, result.best_metrics) == (42, {"loss": 1.5})


def test_no_intact_checkpoint_is_left(tmp_path, uninterrupted):
    interrupted(tmp_path, 16)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "checkpoints", copy / "checkpoints")
    for directory in (tmp_path, copy):
        corrupt(directory, 7)
        corrupt(directory, 14)
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, resume="auto"), *uninterrupted)
    with pytest.raises(training.CheckpointError, match="no intact checkpoint to resume from"):
        problem.fit(copy, resume="must")


def test_must_and_never_raise(tmp_path):
    with pytest.raises(training.CheckpointError, match="no intact checkpoint to resume from"):
        problem.fit(tmp_path, resume="must", steps=14)
    problem.fit(tmp_path, resume="never", steps=14)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(training.CheckpointError, match=r"holds checkpoints already.*step 14"):
        problem.fit(tmp_path, resume="never", steps=14)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_other_models_checkpoint_stops_the_run_before_it_begins(tmp_path):
    problem.fit(tmp_path, steps=14)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(training.CheckpointMismatchError, match=r"\.params\['hidden'\]\['w'\]"):
        problem.fit(tmp_path, state=problem.make_state(hidden=8))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert problem.fit(tmp_path, steps=14).status == "finished"


def test_finished_run_called_again_gives_its_result(tmp_path, uninterrupted):
    problem.fit(tmp_path)

    def fail(_):
        raise AssertionError("no step is left")

    again = problem.fit(tmp_path, batch_at=fail, evaluate=fail)
    problem.assert_same_run(tmp_path, again, *uninterrupted)
    with pytest.raises(ValueError, match="steps=30, but the run has taken 60"):
        problem.fit(tmp_path, steps=30)


def test_finished_run_can_be_continued(tmp_path, uninterrupted):
    problem.fit(tmp_path, steps=28)
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


def test_search_for_the_best_restarts_with_another_monitor(tmp_path):
    problem.fit(tmp_path, steps=28)
    result = problem.fit(
        tmp_path, evaluate=lambda params: {"other": 1.0}, monitor="other", mode="max"
    )
    assert (result.best_step, result.best_metrics) == (35, {"other": 1.0})


def test_incomplete_row_left_by_a_kill_is_removed(tmp_path, uninterrupted):
    interrupted(tmp_path, 30)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 32, "spl')
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


def test_unusable_directories_raise_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()

    def fail(_):
        raise AssertionError("no step may be taken")

    with pytest.raises(training.CheckpointError, match="Not a directory"):
        problem.fit(tmp_path / "file", batch_at=fail)
    with pytest.raises(training.MetricsError, match="Not a directory"):
        problem.fit(metrics=training.JsonlWriter(tmp_path / "file" / "m.jsonl"), batch_at=fail)
