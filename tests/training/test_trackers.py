"""Runs of W&B and MLflow, offline: what they hold, also after an interrupted run."""

import importlib.util
import json
import logging
import multiprocessing
import sys

import pytest

from gru_jax import training
from gru_jax.training import trackers
from tests.training import regression_problem as problem
from tests.training.tracker_readers import mlflow_rows, mlflow_runs, wandb_records

STEPS = 21

# Of these packages' own dependencies, and of processes that they leave running.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
    if importlib.util.find_spec("sqlalchemy")
    else pytest.mark.filterwarnings("default"),
]


class RecordingWriter(training.TrackerWriter):
    """A tracker in memory: what it was told, over all sessions; it can be made to fail."""

    label = "Tracker"

    def __init__(self, *arguments, told, **options):
        super().__init__(*arguments, **options)
        self.told, self.fails_at = told, None

    def tell(self, *what):
        if what[0] == self.fails_at:
            raise ConnectionError("https://user:secret@host/api is lost.\nMore.")
        self.told.append(what)

    def _open(self, run_id):
        self.tell("open", run_id)
        return run_id or "first"

    def _log(self, step, metrics):
        self.tell("log", step, metrics)

    def _summarize(self, summary):
        self.tell("summary", summary)

    def _add_artifact(self, path):
        self.tell("artifact", path.name)

    def _end(self, status):
        self.tell("end", status)


def recording(directory, told, **options):
    rows = training.JsonlWriter(directory / "metrics.jsonl")
    return RecordingWriter(rows, directory / "tracker", told=told, **options)


def expected(directory):
    """(step, metrics) that the rows of a run should give, without times."""
    return [
        (row["step"], {f"{row['split']}/{n}": row[n] for n in row if n not in ("step", "split")})
        for row in problem.rows_without_times(directory)
    ]


def logged(told):
    return [
        (step, {name: metrics[name] for name in metrics if name != "steps_per_second"})
        for kind, step, metrics in (what for what in told if what[0] == "log")
    ]


def fail_at(step):
    def batch_at(index):
        if index + 1 == step:
            raise RuntimeError("interrupted")
        return problem.batch_at(index)

    return batch_at


def test_a_tracker_gets_all_rows_and_an_end(tmp_path):
    told = []
    with recording(tmp_path, told) as writer:
        problem.fit(tmp_path, steps=STEPS, metrics=writer)
        writer.summarize({"test": {"mse": 0.5}, "best_step": 3})
        writer.add_artifact(tmp_path / "metrics.jsonl")
    assert told[0] == ("open", None)
    assert logged(told) == expected(tmp_path)
    assert told[-3:] == [
        ("summary", {"test/mse": 0.5, "best_step": 3}),
        ("artifact", "metrics.jsonl"),
        ("end", "finished"),
    ]


@pytest.mark.parametrize("interruptions", [[13], [13, 9], [9, 20, 18]])
def test_rows_after_the_checkpoint_are_not_sent_twice(tmp_path, interruptions):
    """The run begins again at step 7 or 14; the steps after that were sent before."""
    told = []
    for step in interruptions:
        with (
            pytest.raises(RuntimeError, match="interrupted"),
            recording(tmp_path, told) as writer,
        ):
            problem.fit(tmp_path, steps=STEPS, metrics=writer, batch_at=fail_at(step))
        assert told[-1] == ("end", "failed")
    with recording(tmp_path, told) as writer:
        problem.fit(tmp_path, steps=STEPS, metrics=writer)
    assert logged(told) == expected(tmp_path)
    assert [what[1] for what in told if what[0] == "open"] == [None] + ["first"] * len(
        interruptions
    )


def test_a_tracker_that_comes_later_gets_earlier_rows(tmp_path):
    problem.fit(tmp_path, steps=14)
    told = []
    with recording(tmp_path, told) as writer:
        problem.fit(tmp_path, steps=STEPS, metrics=writer)
    assert logged(told) == expected(tmp_path)


@pytest.mark.parametrize("fails_at", ["open", "log", "summary", "artifact", "end"])
def test_a_tracker_that_fails_does_not_stop_the_run(tmp_path, caplog, fails_at):
    plain = problem.fit(tmp_path / "plain", steps=STEPS)
    told = []
    with recording(tmp_path, told) as writer:
        writer.fails_at = fails_at
        result = problem.fit(tmp_path, steps=STEPS, metrics=writer)
        writer.summarize({})
        writer.add_artifact(tmp_path)
    problem.assert_same_run(tmp_path, result, tmp_path / "plain", plain)
    (message,) = (r.getMessage() for r in caplog.records if r.name == trackers.logger.name)
    assert message == (
        "Tracker gets no more of this run (https://host/api is lost). All metrics are in "
        f"{tmp_path / 'metrics.jsonl'}."
    )


def test_a_resumed_run_sends_what_a_lost_network_kept_back(tmp_path):
    told = []
    with recording(tmp_path, told) as writer:
        writer.fails_at = "log"
        problem.fit(tmp_path, steps=14, metrics=writer)
    with recording(tmp_path, told) as writer:
        problem.fit(tmp_path, steps=STEPS, metrics=writer)
    assert logged(told) == expected(tmp_path)


def test_a_signal_is_no_failure(tmp_path):
    told = []

    def stop(index):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), recording(tmp_path, told) as writer:
        problem.fit(tmp_path, metrics=writer, batch_at=stop)
    assert told[-1] == ("end", "interrupted")


def test_writers_can_be_combined(tmp_path):
    pytest.importorskip("tensorboardX")
    from tests.training.tensorboard_reader import scalars

    told = []
    writer = training.TensorBoardWriter(recording(tmp_path, told), tmp_path / "tensorboard")
    with writer:
        problem.fit(tmp_path, steps=STEPS, metrics=writer)
    assert logged(told) == expected(tmp_path)
    assert len(scalars(tmp_path / "tensorboard")) > len(expected(tmp_path))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """W&B without a network, and MLflow in a file of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    if "wandb" in sys.modules:
        # Otherwise its settings are those of the first test.
        sys.modules["wandb"].teardown()


def interrupt_and_resume(kind, directory):
    """Trains in two sessions, of which the first is killed after steps that are not saved."""
    options = {
        "config": {"seed": 3, "model": {"cell": "gru"}},
        "tags": {"task": "regression"},
        "project": "tests",
    }
    rows = training.JsonlWriter(directory / "metrics.jsonl")
    with pytest.raises(RuntimeError), kind(rows, directory / "tracker", **options) as writer:
        problem.fit(directory, steps=STEPS, metrics=writer, batch_at=fail_at(13))
    with kind(rows, directory / "tracker", **options) as writer:
        problem.fit(directory, steps=STEPS, metrics=writer)
        writer.summarize({"test": {"mse, all": 0.5}, "status": "finished"})
        writer.add_artifact(directory / "metrics.jsonl")


@pytest.mark.slow
def test_wandb_holds_the_run(tmp_path, offline, caplog):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed (the extra wandb)")
    caplog.set_level(logging.INFO, trackers.logger.name)
    interrupt_and_resume(training.WandbWriter, tmp_path)
    # Its process writes the file.
    wandb.teardown()
    found = wandb_records(tmp_path / "tracker")
    merged = {}
    for step, metrics in expected(tmp_path):
        merged.setdefault(step, {}).update(metrics)
    without_rate = [
        (step, {name: row[name] for name in row if name != "steps_per_second"})
        for step, row in found.rows
    ]
    assert without_rate == [*merged.items()]
    (run_id,) = found.ids
    assert found.config["model"] == {"cell": "gru"}
    assert found.tags == {"task=regression"}
    assert found.summary["test/mse, all"] == 0.5
    assert found.artifacts == [f"{run_id}-metrics.jsonl"]
    assert found.exit_codes == [1, 0]
    assert caplog.messages[0].startswith("W&B: offline, `wandb sync ")


@pytest.mark.slow
def test_mlflow_holds_the_run(tmp_path, offline):
    pytest.importorskip("mlflow", reason="mlflow is not installed (the extra mlflow)")
    interrupt_and_resume(training.MlflowWriter, tmp_path)
    found = [row for row in mlflow_rows(offline) if "steps_per_second" not in row[1]]
    metrics = [(step, *item) for step, row in expected(tmp_path) for item in row.items()]
    assert sorted(found) == sorted([*metrics, (0, "test/mse_ all", 0.5)])
    client, (run,) = mlflow_runs(offline)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "model.cell": "gru"}
    assert run.data.tags["task"] == "regression"
    assert run.data.tags["status"] == "finished"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["metrics.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_cannot_be_reached(tmp_path, offline, monkeypatch, caplog, name):
    pytest.importorskip(name, reason=f"{name} is not installed (the extra {name})")
    kinds = {"wandb": training.WandbWriter, "mlflow": training.MlflowWriter}
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "no key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@localhost:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    rows = training.JsonlWriter(tmp_path / "metrics.jsonl")
    with kinds[name](rows, tmp_path / "tracker") as writer:
        result = problem.fit(tmp_path, steps=7, metrics=writer)
    assert result.status == "finished"
    assert len(problem.rows_without_times(tmp_path)) == 3
    messages = [r.getMessage() for r in caplog.records if r.name == trackers.logger.name]
    assert len(messages) == 1
    assert "gets no more of this run" in messages[0]
    assert "secret" not in caplog.text


def test_a_state_that_is_corrupted_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "run.json").write_text("{}")
    told = []
    with recording(tmp_path, told) as writer:
        problem.fit(tmp_path, steps=7, metrics=writer)
    assert told == []
    assert "gets no more of this run ('id')" in caplog.text


def test_the_state_names_the_run_and_its_latest_row(tmp_path):
    with recording(tmp_path, []) as writer:
        problem.fit(tmp_path, steps=7, metrics=writer)
    state = json.loads((tmp_path / "tracker" / "run.json").read_text())
    assert state == {"id": "first", "step": 7, "is_validation": True}
    assert not multiprocessing.active_children()
