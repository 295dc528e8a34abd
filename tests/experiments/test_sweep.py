"""Sweeps: trials within the ranges, pruned, interrupted and resumed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from experiments.cli import main
from experiments.runs import search, study_storage
from experiments.runs.config_loading import load_config
from experiments.runs.study_storage import open_storage

REPOSITORY = Path(__file__).parents[2]
RANGES = {
    "optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "model.hidden_size": {"low": 2, "high": 3},
    "optimizer.schedule": {"choices": ["constant", "cosine"]},
}


@pytest.fixture
def swept(adding):
    return {**adding, "sweep": RANGES}


def sweep(config, output, *options):
    return main(["sweep", str(config), "--output", str(output), *options])


def trials(output):
    with open_storage(Path(output)) as storage:
        return optuna.load_study(study_name="sweep", storage=storage).get_trials()


def summaries(output):
    return [json.loads(path.read_text()) for path in Path(output).glob("trial-*/summary.json")]


@pytest.mark.slow
def test_the_best_trial_becomes_a_config(swept, write_config, capfd):
    assert sweep(write_config(swept), "out", "--trials", "4") == 0
    metrics = [summary["validation"]["mse"] for summary in summaries("out")]
    assert len(metrics) == len(trials("out")) == 4
    best = load_config(Path("out/best.yaml"))
    assert best.sweep == {}
    assert 1e-3 <= best.optimizer.learning_rate <= 1e-1
    assert 2 <= best.model.hidden_size <= 3
    assert len({trial.params["optimizer.learning_rate"] for trial in trials("out")}) == 4
    # Training with it reproduces the trial.
    assert main(["train", "out/best.yaml", "--run-dir", "again"]) == 0
    again = json.loads(Path("again/summary.json").read_text())
    assert again["validation"]["mse"] == min(metrics)
    assert "The best config is out/best.yaml" in capfd.readouterr().out


@pytest.mark.slow
def test_a_sweep_resumes(swept, write_config):
    config = write_config(swept)
    assert sweep(config, "out", "--trials", "2") == 0
    first = Path("out/trial-0/meta.json").read_text()
    assert sweep(config, "out", "--trials", "3") == 0
    assert len(trials("out")) == 3
    assert Path("out/trial-0/meta.json").read_text() == first
    rates = [trial.params["optimizer.learning_rate"] for trial in trials("out")]
    assert len(set(rates)) == 3


def test_an_interrupted_trial_resumes(swept, write_config, interrupted_at_step, capfd):
    config = write_config(swept)
    with interrupted_at_step(4, in_run=Path("out/trial-1")):
        assert sweep(config, "out", "--trials", "2") == 130
    assert "To resume: python -m experiments sweep" in capfd.readouterr().err
    params = trials("out")[1].params
    assert sweep(config, "out", "--trials", "2") == 0
    assert len(summaries("out")) == 2
    assert trials("out")[-1].params == params
    meta = json.loads(Path("out/trial-1/meta.json").read_text())
    assert len(meta["earlier_sessions"]) == 1


class PruneEarly(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.last_step >= 1


def test_a_pruned_trial_counts(swept, write_config, monkeypatch, capfd):
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: PruneEarly())
    swept["training"] = {**swept["training"], "steps": 12}
    assert sweep(write_config(swept), "out", "--trials", "2") == 1
    assert "No trial was completed" in capfd.readouterr().err
    assert {trial.state for trial in trials("out")} == {optuna.trial.TrialState.PRUNED}
    assert [len(trial.intermediate_values) for trial in trials("out")] == [2, 2]


def test_a_trial_that_diverges_counts(swept, write_config, capfd):
    swept["optimizer"] = {"name": "sgd"}
    swept["sweep"] = {"optimizer.learning_rate": {"choices": [1e30, 1e29]}}
    assert sweep(write_config(swept), "out") == 1
    assert len(trials("out")) == 2
    assert "loss is" in capfd.readouterr().err


@pytest.mark.slow
def test_choices_are_searched_as_a_whole_grid(swept, write_config):
    swept["sweep"] = {
        "model.chrono_bias": {"choices": [None, 5.0]},
        "optimizer.learning_rate": {"choices": [1e-3, 1e-2]},
    }
    assert sweep(write_config(swept), "out", "--trials", "1") == 0
    assert [trial.params for trial in trials("out")] == [
        {"model.chrono_bias": bias, "optimizer.learning_rate": rate}
        for bias in (None, 5.0)
        for rate in (1e-3, 1e-2)
    ]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({}, "the key sweep is missing"),
        ({"model.hiden_size": {"low": 1, "high": 2}}, "model.hiden_size"),
        ({"modle.hidden_size": {"low": 1, "high": 2}}, "modle.hidden_size"),
        ({"model.hidden_size": {"low": -5, "high": -1}}, "model.hidden_size"),
        ({"model.hidden_size": {"low": 5, "high": 1}}, "low is 5"),
        ({"model.dropout": {"low": 0.0, "high": 0.5, "log": True}}, "low is 0.0"),
        ({"model.dropout": {"low": 0.0}}, "low and high, or choices"),
        ({"model.dropout": {}}, "low and high, or choices"),
        ({"model.dropout": {"low": 0.0, "high": 0.5, "choices": [0.1]}}, "or choices"),
        ({"model.dropout": {"lo": 0.0, "high": 0.5}}, "lo"),
    ],
)
def test_wrong_ranges_are_named(ranges, expected, adding, write_config, user_error):
    config = write_config({**adding, "sweep": ranges})
    assert expected in user_error("sweep", str(config), "--output", "out", "--trials", "1")


def test_other_ranges_are_another_study(swept, write_config, user_error):
    assert sweep(write_config(swept), "out", "--trials", "1") == 0
    swept["sweep"] = {"model.dropout": {"low": 0.0, "high": 0.5}}
    message = user_error("sweep", str(write_config(swept)), "--output", "out")
    assert (
        "other values of the ranges. They differ in model.dropout.high (0.5 here, absent" in message
    )


def test_another_config_is_another_study(swept, write_config, user_error):
    assert sweep(write_config(swept), "out", "--trials", "1") == 0
    changed = ["--seed", "7", "--training.steps", str(swept["training"]["steps"] + 1)]
    message = user_error("sweep", str(write_config(swept)), "--output", "out", *changed)
    assert (
        "holds a study of other values of the config. They differ in seed (7 here, 0 there)"
        in message
    )
    assert "training.steps" in message


def test_training_ignores_ranges(swept, write_config):
    assert main(["train", str(write_config(swept)), "--run-dir", "out"]) == 0


STORAGE = "sqlite:///shared.db"


def shared_trials(output):
    with open_storage(Path(output), STORAGE) as storage:
        return optuna.load_study(study_name=str(output), storage=storage).get_trials()


def test_a_stopped_worker_hands_its_trial_on(swept, write_config, interrupted_at_step):
    swept["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    config = write_config(swept)
    with interrupted_at_step(4, in_run=Path("out/trial-1")):
        assert sweep(config, "out", "--storage", STORAGE) == 130
    assert shared_trials("out")[-1].state == TrialState.WAITING
    assert sweep(config, "out", f"--storage={STORAGE}") == 0
    states = [trial.state for trial in shared_trials("out")]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    meta = json.loads(Path("out/trial-1/meta.json").read_text())
    assert len(meta["earlier_sessions"]) == 1


def test_a_worker_takes_up_the_trial_of_a_dead_one(swept, write_config, monkeypatch):
    monkeypatch.setattr(study_storage, "HEARTBEAT_SECONDS", 1)
    swept["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    config = write_config(swept)
    dead = search.Search(
        folder=Path("out"),
        config=load_config(config),
        space=load_config(config).sweep,
        num_trials=2,
        make_config=None,
        data_dir=Path(),
        command="",
        evaluate_test=True,
        storage=STORAGE,
    )
    with search.open_study(dead) as study:
        # It gets a trial, gives a sign of life, and dies.
        with study_storage.hide_experimental_warnings():
            trial = study.ask()
        with study_storage.heartbeats(study, trial, is_shared=True):
            pass
        locked = Path("out/trial-0/.lock")
        locked.parent.mkdir(parents=True)
        locked.write_text('{"pid": 1, "host": "elsewhere", "since": "yesterday"}')
    assert sweep(config, "out", "--storage", STORAGE) == 0
    trials = shared_trials("out")
    assert [trial.state for trial in trials] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    assert trials[2].user_attrs["directory"] == "trial-0"
    assert len(summaries("out")) == 2


@pytest.mark.slow
def test_workers_share_a_study(swept, write_config):
    """Two at the same time, of which one is killed: each point of the grid ends once."""
    swept["sweep"] = {"model.hidden_size": {"choices": [2, 3, 4]}}
    swept["training"] = {**swept["training"], "steps": 200, "eval_every": 10}
    config = write_config(swept)
    code = (
        "import sys; from experiments import cli; from experiments.runs import study_storage;"
        "study_storage.HEARTBEAT_SECONDS = 5; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "sweep", str(config), "--output", "out"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    workers = [
        subprocess.Popen([*command, "--storage", STORAGE], env=env, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    while len(list(Path("out").glob("trial-*/metrics.jsonl"))) < 2:
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.02)
    workers[0].kill()
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert workers[1].returncode == 0, errors
    ended = [
        trial.params["model.hidden_size"]
        for trial in shared_trials("out")
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    assert sorted(ended) == [2, 3, 4]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("study.db", "--storage is 'study.db', but should be a URL of SQLAlchemy"),
        ("nothing://host/database", "--storage is 'nothing://host/database', but should be"),
        ("sqlite:////nowhere/at/all/study.db", "cannot be opened: unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_opened(swept, write_config, user_error, url, expected):
    assert expected in user_error("sweep", write_config(swept), "--output", "out", "--storage", url)


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(500)])
def test_a_corrupted_study(adding, write_config, user_error, content):
    adding["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    config = write_config(adding)
    Path("out").mkdir()
    Path("out", "study.db").write_bytes(content)
    message = user_error("sweep", config, "--output", "out")
    assert message.startswith("out/study.db is corrupted. Give another --output, or delete out")
