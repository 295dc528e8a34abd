"""The command `train` in one process: the files of a run, and resuming it."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from experiments.cli import main
from experiments.runs import run
from gru_jax import training
from tests.experiments.conftest import ADDING


def train(*arguments):
    return main(["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished_files(tmp_path_factory):
    """A directory with a config file and the finished run that it made."""
    directory = tmp_path_factory.mktemp("finished")
    config = directory / "tiny.yaml"
    config.write_text(yaml.safe_dump(ADDING))
    assert train(config, "--run-dir", directory / "run") == 0
    return directory


@pytest.fixture
def finished(finished_files, workplace):
    """A finished run of the test's own: its config file and its directory."""
    shutil.copytree(finished_files, workplace, dirs_exist_ok=True)
    return workplace / "tiny.yaml", workplace / "run"


def test_wall_seconds_include_earlier_parts(adding, write_config, workplace, monkeypatch):
    """As for a run that was interrupted just before its end."""
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: float("-inf")))
    assert train(write_config(adding), "--run-dir", "run") == 0
    meta = json.loads((workplace / "run" / "meta.json").read_text())
    rows = training.read_metrics(workplace / "run" / "metrics.jsonl")
    assert meta["wall_seconds"] == pytest.approx(rows[-1]["seconds"], abs=0.01)


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("rendered")
def test_a_run_writes_all_its_files(adding, write_config, workplace):
    assert train(write_config(adding), "--run-dir", "run") == 0
    run = workplace / "run"
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["length"] == adding["length"]
    assert resolved["model"]["cell"] == "gru"
    assert resolved["optimizer"]["weight_decay"] == 0

    meta = json.loads((run / "meta.json").read_text())
    assert {"git_revision", "versions", "device", "command", "wall_seconds"} <= meta.keys()
    assert meta["command"].startswith("python -m experiments train ")
    assert {"python", "jax", "flax", "optax"} <= meta["versions"].keys()
    assert meta["sequences_per_second"] == pytest.approx(8 * meta["steps_per_second"])

    rows = training.read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6]
    assert [row["step"] for row in rows if row["split"] == "validation"] == [3, 6]

    summary = json.loads((run / "summary.json").read_text())
    best = min((row for row in rows if row["split"] == "validation"), key=lambda row: row["mse"])
    assert summary["best_step"] == best["step"]
    assert summary["validation"]["mse"] == best["mse"]
    assert summary["status"] == "finished"
    assert np.isfinite(summary["test"]["mse"])
    # Three gates of 2 inputs, 4 units, a bias; the new gate's second bias; the readout.
    assert summary["parameters"] == 3 * 4 * (2 + 4 + 1) + 4 + 4 + 1

    assert (run / "checkpoints" / "6").is_dir()
    plots = sorted(path.name for path in (run / "plots").iterdir())
    assert plots == ["gate_activity.png", "learning_curves.png", "predictions.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run / "plots").iterdir())


def test_the_table_shows_network_and_baselines(finished, capsys):
    config, run = finished
    summary = json.loads((run / "summary.json").read_text())
    assert train(config, "--run-dir", run) == 0
    printed = capsys.readouterr().out
    for name, mse in [
        ("GRU, 4 units", summary["test"]["mse"]),
        ("mean of all sums", summary["baselines"]["mean of all sums"]["mse"]),
    ]:
        assert re.search(rf"{name}.*{mse:.4f}", printed)
    assert f"{summary['parameters']:,}" in printed
    assert "predictions.png" in printed


def test_the_table_shows_published_metrics(published, write_config, capsys):
    assert train(write_config(published), "--run-dir", "run") == 0
    printed = capsys.readouterr().out
    assert re.search(r"RNN, Doe 1999 +│ +0.125 ", printed)
    assert re.search(r"GRU, Roe 2015 +│ +0.0625 ", printed)
    assert "Published: Doe 1999, table 7; Roe 2015." in printed


@pytest.mark.parametrize("keys", [("published",), ("published", "sweep")])
def test_metadata_fields_may_change_after_the_run(finished, published, write_config, capsys, keys):
    """A run without these keys is accepted, and the table shows the current published metrics."""
    _, run = finished
    earlier = yaml.safe_load((run / "config.yaml").read_text())
    for key in keys:
        del earlier[key]
    (run / "config.yaml").write_text(yaml.safe_dump(earlier))
    ranges = {"seed": {"low": 0, "high": 9}}
    assert train(write_config({**published, "sweep": ranges}), "--run-dir", run) == 0
    assert "GRU, Roe 2015" in capsys.readouterr().out


def test_a_finished_run_prints_its_table_again_and_changes_nothing(finished):
    config, run = finished
    before = contents(run)
    assert train(config, "--run-dir", run, "--resume", "must") == 0
    assert contents(run) == before


def test_two_runs_of_one_seed_agree_and_those_of_two_differ(finished):
    config, run = finished
    assert train(config, "--run-dir", "again") == 0
    assert train(config, "--run-dir", "other", "--seed", 1) == 0
    summaries = [run.with_name(name) / "summary.json" for name in ("run", "again", "other")]
    first, again, other = (summary.read_bytes() for summary in summaries)
    assert first == again
    assert json.loads(first)["test"] != json.loads(other)["test"]


def test_the_resolved_config_makes_the_same_run(finished):
    _, run = finished
    assert train(run / "config.yaml", "--run-dir", "again") == 0
    assert (run.with_name("again") / "summary.json").read_bytes() == (
        run / "summary.json"
    ).read_bytes()


def test_options_override_the_file(adding, write_config, workplace):
    options = ["--seed", 3, "--model.hidden-size", 2, "--optimizer.max-grad-norm", "None"]
    assert train(write_config(adding), *options, "--run-dir", "run") == 0
    resolved = yaml.safe_load((workplace / "run" / "config.yaml").read_text())
    assert resolved["seed"] == 3
    assert resolved["model"]["hidden_size"] == 2
    assert resolved["optimizer"]["max_grad_norm"] is None


def test_without_run_dir_each_run_makes_a_directory(adding, write_config, workplace):
    config = write_config(adding, "sums.yaml")
    assert train(config) == 0
    assert train(config) == 0
    runs = list((workplace / "runs" / "sums").iterdir())
    assert len(runs) == 2
    assert all(re.fullmatch(r"\d{8}-\d{6}-s0(-2)?", run.name) for run in runs)


def test_another_experiment_in_the_directory_is_rejected(finished, user_error):
    config, run = finished
    message = user_error("train", config, "--run-dir", run, "--seed", 5, "--model.hidden-size", 3)
    assert f"{run} holds another experiment" in message
    assert "model.hidden_size (3 here, 4 there)" in message
    assert "seed (5 here, 0 there)" in message
    assert "batch_size" not in message


def test_resume_never_rejects_an_existing_run(finished, user_error):
    config, run = finished
    assert "--resume is never" in user_error("train", config, "--run-dir", run, "--resume", "never")


def test_resume_must_rejects_an_empty_directory(adding, write_config, user_error):
    message = user_error("train", write_config(adding), "--run-dir", "none", "--resume", "must")
    assert "nothing to resume in none" in message


def test_a_directory_of_other_files_is_rejected(adding, write_config, user_error, workplace):
    (workplace / "mine").mkdir()
    (workplace / "mine" / "thesis.tex").touch()
    message = user_error("train", write_config(adding), "--run-dir", "mine")
    assert "mine holds files, but no run" in message


def test_a_folder_of_runs_is_rejected_and_its_latest_run_named(adding, write_config, user_error):
    """As after `make train`, which leaves its run in a folder named after the config."""
    config = write_config(adding, "sums.yaml")
    assert train(config) == 0
    (run,) = Path("runs", "sums").iterdir()
    message = user_error("train", config, "--run-dir", "runs/sums")
    assert f"runs/sums is not a run, but a folder of runs. Its latest run is {run}." in message
    assert train(config, "--run-dir", run, "--resume", "must") == 0
    assert train(config, "--run-dir", "runs/sums-served") == 0


def test_a_directory_that_cannot_be_made_is_rejected(adding, write_config, user_error, workplace):
    (workplace / "file").touch()
    config = write_config(adding)
    assert "file is a file" in user_error("train", config, "--run-dir", "file")
    assert "cannot be written" in user_error("train", config, "--run-dir", "file/below")


def test_a_run_with_a_corrupted_config_is_rejected(finished, user_error):
    config, run = finished
    (run / "config.yaml").write_text("task: [")
    assert "not valid YAML" in user_error("train", config, "--run-dir", run)


def test_a_loss_that_is_not_finite_ends_the_run(adding, write_config, workplace, capsys):
    config = write_config(adding)
    options = ["--optimizer.learning-rate", "1e38", "--optimizer.name", "sgd", "--run-dir", "run"]
    assert train(config, *options) == 1
    message = capsys.readouterr().err
    assert re.search(r"(loss|grad_norm|norm) is (nan|inf) at step \d+, on the batch of", message)
    assert "--run-dir run" in message
    assert not (workplace / "run" / "summary.json").exists()


def test_a_full_disk_ends_the_run_with_a_message(
    adding, write_config, workplace, capsys, monkeypatch
):
    def full(source, target):
        if str(target).endswith("summary.json"):
            raise OSError(28, "No space left on device", str(target))
        return replace(source, target)

    replace = os.replace
    config = write_config(adding)
    monkeypatch.setattr(os, "replace", full)
    assert train(config, "--run-dir", "run") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((workplace / "run").glob("*summary*"))

    monkeypatch.setattr(os, "replace", replace)
    assert train(config, "--run-dir", "run") == 0
    assert train(config, "--run-dir", "unbroken") == 0
    repaired, unbroken = (workplace / name / "summary.json" for name in ("run", "unbroken"))
    assert repaired.read_bytes() == unbroken.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_digits_end_to_end(digits, write_config, workplace, capsys, cell):
    assert train(write_config(digits), "--model.cell", cell, "--run-dir", "run") == 0
    summary = json.loads((workplace / "run" / "summary.json").read_text())
    assert summary["baselines"].keys() == {
        "majority class",
        "logistic regression",
        "nearest neighbour",
        "SVC, Gaussian kernel",
    }
    plots = {path.name for path in (workplace / "run" / "plots").iterdir()}
    expected = {"learning_curves.png", "confusion_matrix.png"}
    assert plots == expected | ({"gate_activity.png"} if cell == "gru" else set())
    assert "logistic regression" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["jsb", "nottingham"])
def test_music_end_to_end(music, write_config, workplace, published_data, dataset):
    values = {**music, "dataset": dataset, "longest": 200}
    assert train(write_config(values), "--data-dir", published_data, "--run-dir", "run") == 0
    summary = json.loads((workplace / "run" / "summary.json").read_text())
    assert summary["baselines"].keys() == {"unigram", "Markov chain per key", "logistic regression"}
    # Six steps improve on one bit per key, but cannot reach the unigram model.
    unigram = summary["baselines"]["unigram"]["nll_per_frame"]
    assert unigram < summary["test"]["nll_per_frame"] < 88 * np.log(2) * 1.2
    assert (workplace / "run" / "plots" / "piano_roll.png").exists()
