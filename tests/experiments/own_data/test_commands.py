"""From a file of one's own to an exported model and predictions, by commands alone."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from experiments.commands.train.closing import against_baselines
from experiments.own_data.config import DataConfig
from experiments.own_data.encoding import Encoding
from experiments.own_data.sources import load_source
from gru_jax import export
from tests.experiments.own_data.generators import write_labelled_steps, write_sounds

REPOSITORY = Path(__file__).parents[3]


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary():
    return json.loads(Path("run/summary.json").read_text())


def raw_inputs(path, format, problem):
    """Returns what a program takes: raw inputs (N, T, F), padded with NaN, and lengths."""
    config = DataConfig(path=str(path), format=format)
    dataset = load_source(format).read(config, problem, targets=False)
    record = json.loads(Path("run/data.json").read_text())
    aligned = Encoding.from_json(record["encoding"], "run/data.json").align(dataset)
    lengths = np.array(list(map(len, aligned)), np.int32)
    inputs = np.full((len(lengths), lengths.max(), aligned[0].shape[1]), np.nan, np.float32)
    for row, values in zip(inputs, aligned, strict=True):
        row[: len(values)] = values
    return inputs, lengths


def outputs_of_programs(inputs, lengths):
    onnxruntime = pytest.importorskip("onnxruntime")
    run("export", "run", "--to", "onnx")
    run("export", "run", "--to", "stablehlo")
    session = onnxruntime.InferenceSession("run/export/model.onnx")
    names = [each.name for each in session.get_outputs()]
    values = session.run(None, {"inputs": inputs, "lengths": lengths})
    yield values[names.index("outputs")]
    yield np.asarray(export.load("run/export/model.zip").call(inputs, lengths))


@pytest.mark.slow
def test_a_folder_of_recordings(workplace, capsys):
    write_sounds(workplace / "sounds", 40)
    run("init", "sounds", "-o", "sounds.yaml")
    run("train", "sounds.yaml", "--run-dir", "run")
    printed = capsys.readouterr().out
    assert "Whole sequences are divided into train, validation and test: 56, 12, 12" in printed
    assert "no better" not in printed
    assert summary()["test"]["accuracy"] >= 0.9
    # The training data need not exist any more.
    shutil.rmtree("sounds")
    write_sounds(workplace / "new", 5, seed=1)
    before = sorted(Path("run").rglob("*"))
    run("predict", "run", "new", "-o", "out.csv")
    assert sorted(Path("run").rglob("*")) == before
    rows = table("out.csv")
    assert len(rows) == 10
    assert np.mean([row["class"] == row["sequence"].split("/")[0] for row in rows]) >= 0.9
    probabilities = [
        [float(row[f"probability of {k} first"]) for k in ("high", "low")] for row in rows
    ]
    for outputs in outputs_of_programs(*raw_inputs("new", "audio", "classification")):
        np.testing.assert_allclose(outputs, probabilities, atol=1e-4)


@pytest.mark.slow
def test_labelled_steps(workplace, capsys):
    write_labelled_steps(workplace / "steps.npz", 100)
    run("init", "steps.npz", "-o", "steps.yaml")
    run("train", "steps.yaml", "--run-dir", "run", "--training.steps", "300")
    assert "no better" not in capsys.readouterr().out
    result = summary()
    best = max(metrics["accuracy"] for metrics in result["baselines"].values())
    assert result["test"]["accuracy"] > best + 0.05
    Path("steps.npz").unlink()
    write_labelled_steps(workplace / "new.npz", 10, seed=1)
    run("predict", "run", "new.npz", "-o", "out.csv")
    rows = table("out.csv")
    truth = np.load("new.npz")["y"]
    assert np.mean(np.array([row["y"] for row in rows]) == truth) > 0.85
    probabilities = np.array(
        [[float(row[f"probability of {k}"]) for k in ("down", "up")] for row in rows]
    )
    inputs, lengths = raw_inputs("new.npz", "arrays", "labelling")
    for outputs in outputs_of_programs(inputs, lengths):
        found = np.concatenate([of[:length] for of, length in zip(outputs, lengths, strict=True)])
        np.testing.assert_allclose(found, probabilities, atol=1e-4)


TINY = """
task: sequences
problem: labelling
data: {path: steps.npz, format: arrays, target: [y]}
model: {hidden_size: 4}
training: {steps: 6, batch_size: 4, eval_every: 3, log_every: 2}
"""


@pytest.fixture
def tiny(workplace):
    write_labelled_steps(workplace / "steps.npz", 12)
    Path("tiny.yaml").write_text(TINY)


@pytest.mark.slow
def test_predict_needs_the_run_only(tiny, capsys):
    run("train", "tiny.yaml", "--run-dir", "run")
    printed = capsys.readouterr().out
    assert "12 sequences of" in printed
    # Six steps are too few to learn anything.
    assert "Beware:   the model is no better than a baseline" in printed
    record = json.loads(Path("run/data.json").read_text())
    assert record["sentences"][0] in printed
    Path("steps.npz").rename("new.npz")
    run("predict", "run", "new.npz", "-o", "out.csv")
    assert set(table("out.csv")[0]) == {
        "sequence",
        "step",
        "y",
        "probability of down",
        "probability of up",
    }
    capsys.readouterr()
    assert main(["predict", "run", "new.npz", "-o", "out.csv"]) == 2
    assert "out.csv exists already" in capsys.readouterr().err
    np.savez("other.npz", x=np.zeros((3, 4, 5)))
    assert main(["predict", "run", "other.npz", "-o", "other.csv"]) == 0
    np.savez("other.npz", z=np.zeros((3, 4)))
    assert main(["predict", "run", "other.npz", "-o", "z.csv"]) == 2
    assert "There is no feature x 0" in capsys.readouterr().err
    assert not Path("z.csv").exists()


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_data(tiny, capsys):
    run("train", "tiny.yaml", "--run-dir", "run")
    Path("run/summary.json").unlink()
    write_labelled_steps(Path("steps.npz"), 13, seed=5)
    assert main(["train", "tiny.yaml", "--run-dir", "run"]) == 2
    assert "The data have changed since the training in run began" in capsys.readouterr().err


def test_predict_is_for_data_of_ones_own(workplace, capsys):
    assert main(["predict", "nothing", "x.npz", "-o", "out.csv"]) == 2
    assert "There is no run in nothing" in capsys.readouterr().err
    Path("run").mkdir()
    Path("run/config.yaml").write_text("task: digits\n")
    assert main(["predict", "run", "x.npz", "-o", "out.csv"]) == 2
    assert "is of the task digits, but should be of sequences" in capsys.readouterr().err
    Path("run/config.yaml").write_text(TINY)
    assert main(["predict", "run", "x.npz", "-o", "out.csv"]) == 2
    assert "is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("test", "baselines", "expected"),
    [
        ({"mse": 1.0}, {"mean": {"mse": 2.0}}, None),
        ({"mse": 2.0}, {"mean": {"mse": 1.0}}, "mean: mse 2.0000 against 1.0000"),
        ({"mse": 1.0}, {"mean": {"mse": 1.0}}, "mean: mse 1.0000 against 1.0000"),
        ({"accuracy": 0.9}, {"class": {"accuracy": 0.8}}, None),
        ({"accuracy": 0.7}, {"class": {"accuracy": 0.8}}, "class: accuracy 0.7000 against 0.8000"),
        (
            {"accuracy": 1.0, "cross_entropy": 0.1},
            {"linear": {"accuracy": 1.0, "cross_entropy": 0.2}},
            None,
        ),
        (
            {"accuracy": 1.0, "cross_entropy": 0.3},
            {"linear": {"accuracy": 1.0, "cross_entropy": 0.2}},
            "linear: cross entropy 0.3000 against 0.2000",
        ),
        ({"mse": 1.0}, {"other": {"mae": 0.5}}, None),
    ],
)
def test_a_model_no_better_than_a_baseline_is_told_so(test, baselines, expected):
    sentence = against_baselines({"test": test, "baselines": baselines})
    if expected is None:
        assert sentence is None
    else:
        assert expected in sentence


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(tiny):
    options = ["--training.steps", "60", "--training.eval-every", "10", "--model.dropout", "0.2"]
    command = [sys.executable, "-m", "experiments", "train", "tiny.yaml", *options, "--run-dir"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*command, "whole"], env=environment, check=True, timeout=300)
    process = subprocess.Popen([*command, "killed"], env=environment)
    metrics, end = Path("killed/metrics.jsonl"), time.monotonic() + 300
    while not (metrics.exists() and '"step": 20' in metrics.read_text()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "killed"], env=environment, check=True, timeout=300)
    assert Path("killed/summary.json").read_text() == Path("whole/summary.json").read_text()
    assert Path("killed/data.json").read_text() == Path("whole/data.json").read_text()
