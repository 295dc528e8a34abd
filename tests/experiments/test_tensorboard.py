"""`train --tensorboard`: files for TensorBoard in the run's directory."""

import importlib.util

import pytest

from experiments.cli import main
from gru_jax import training
from tests.training.events import scalars


def train(config, *options):
    return main(["train", str(config), "--run-dir", "run", *options])


def losses(run):
    rows = training.read_metrics(run / "metrics.jsonl")
    return [row["step"] for row in rows if "loss" in row]


def test_a_run_leaves_its_scalars(adding, write_config, workplace):
    assert train(write_config(adding), "--tensorboard") == 0
    run = workplace / "run"
    found = scalars(run / "tensorboard")
    assert [step for tag, step, _ in found if tag == "train/loss"] == losses(run) == [2, 4, 6]
    assert [step for tag, step, _ in found if tag == "validation/mse"] == [3, 6]


def test_a_finished_run_gets_them_without_training(adding, write_config, workplace, capsys):
    config = write_config(adding)
    assert train(config) == 0
    assert not (workplace / "run" / "tensorboard").exists()
    summary = (workplace / "run" / "summary.json").read_bytes()
    assert train(config, "--tensorboard") == 0
    found = scalars(workplace / "run" / "tensorboard")
    assert [step for tag, step, _ in found if tag == "train/loss"] == [2, 4, 6]
    assert (workplace / "run" / "summary.json").read_bytes() == summary


def test_how_to_go_on_says_it_too(adding, write_config, capsys):
    diverging = ["--optimizer.learning-rate", "1e38", "--optimizer.name", "sgd"]
    assert train(write_config(adding), *diverging, "--tensorboard") == 1
    assert capsys.readouterr().err.strip().endswith("--tensorboard")


@pytest.mark.parametrize("options", [[], ["--seed", "1"]])
def test_without_the_extra_nothing_is_trained(adding, write_config, refused, monkeypatch, options):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboardX" else find_spec(name, *rest),
    )
    message = refused("train", write_config(adding), "--tensorboard", *options)
    assert "--tensorboard needs tensorboardX, which is not installed" in message
    assert "pip install -e '.[tensorboard]'" in message
