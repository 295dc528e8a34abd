"""`--tensorboard` of `train` and `compare`: files for TensorBoard in a run's directory."""

from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from gru_jax import training
from tests.training.tensorboard_reader import scalars


def train(config, *options):
    return main(["train", str(config), "--run-dir", "run", *options])


def compare(config, *options):
    return main(["compare", str(config), "--cells", "gru", "--output", "out", *options])


def losses(run):
    rows = training.read_metrics(run / "metrics.jsonl")
    return [row["step"] for row in rows if "loss" in row]


def assert_scalars_are_rows(run):
    rows = training.read_metrics(run / "metrics.jsonl")
    found = scalars(run / "tensorboard")
    for split, metric in (("train", "loss"), ("validation", "mse")):
        expected = [(row["step"], row[metric]) for row in rows if row["split"] == split]
        written = [(step, value) for tag, step, value in found if tag == f"{split}/{metric}"]
        assert [step for step, _ in written] == [step for step, _ in expected]
        assert np.allclose([value for _, value in written], [value for _, value in expected])
        assert len(expected) >= 2


def test_a_run_writes_its_scalars(adding, write_config, workplace):
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


@pytest.mark.parametrize("vmapped", ["True", pytest.param("False", marks=pytest.mark.slow)])
def test_every_run_of_a_comparison_has_its_scalars(adding, write_config, vmapped):
    options = ("--seeds", "2", "--vmap-seeds", vmapped, "--tensorboard")
    assert compare(write_config(adding), *options) == 0
    first, second = (Path("out/gru", seed) for seed in ("s0", "s1"))
    assert_scalars_are_rows(first)
    assert_scalars_are_rows(second)
    assert scalars(first / "tensorboard") != scalars(second / "tensorboard")


@pytest.mark.slow
def test_a_finished_comparison_gets_them_without_training(adding, write_config):
    config = write_config(adding)
    assert compare(config, "--seeds", "1") == 0
    meta = Path("out/gru/s0/meta.json").read_bytes()
    assert not Path("out/gru/s0/tensorboard").exists()
    assert compare(config, "--seeds", "1", "--tensorboard") == 0
    assert_scalars_are_rows(Path("out/gru/s0"))
    assert Path("out/gru/s0/meta.json").read_bytes() == meta


def test_the_command_to_resume_has_the_option(adding, write_config, capsys):
    diverging = ["--optimizer.learning-rate", "1e38", "--optimizer.name", "sgd"]
    assert train(write_config(adding), *diverging, "--tensorboard") == 1
    assert capsys.readouterr().err.strip().endswith("--tensorboard")


@pytest.mark.parametrize(
    ("command", "options"), [("train", []), ("train", ["--seed", "1"]), ("compare", [])]
)
def test_without_the_extra_nothing_is_trained(
    adding, write_config, user_error, assume_packages, command, options
):
    assume_packages("tensorboardX", installed=False)
    message = user_error(command, write_config(adding), "--tensorboard", *options)
    assert "--tensorboard needs tensorboardX, which is not installed" in message
    assert "pip install -e '.[tensorboard]'" in message
