"""Three commands from a file to an exported model, as a new user calls them."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from experiments.cli import main
from tests.experiments.own_data.tables import meters


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def exported(table, *options, training=()):
    """Returns the summary of a run on a table, whose model is exported, too."""
    table.to_csv("my.csv", index=False)
    run("init", "my.csv", "-o", "my.yaml", *options)
    run("train", "my.yaml", "--run-dir", "RUN", *training)
    run("export", "RUN", "--to", "onnx")
    with open("RUN/summary.json") as file:
        return json.load(file)


def test_from_a_table_to_an_exported_model(workplace):
    table = meters(3, 120)
    steps = ("--training.steps", "4", "--training.eval-every", "2")
    summary = exported(table, "--window", "24", "--horizon", "3", training=steps)
    assert summary["status"] == "finished"
    assert list(summary["baselines"]) == [
        "last value",
        "seasonal naive (24 steps)",
        "linear map of 24 steps",
    ]
    # Neither needs the file of the training.
    (workplace / "my.csv").rename("new.csv")
    run("predict", "RUN", "new.csv", "-o", "out.csv")
    run("export", "RUN", "--to", "stablehlo")
    written = pd.read_csv("out.csv", parse_dates=["when"])
    assert written.columns.tolist() == ["meter", "when", "load"]
    given = table.dropna().groupby("meter").when.max()
    assert (written.groupby("meter").when.min() - given == np.timedelta64(1, "h")).all()


@pytest.mark.slow
def test_forecasts_of_fifty_series_beat_the_baselines(workplace):
    summary = exported(meters())
    for metric in ("scaled_mse", "scaled_mae", "mse", "mae"):
        best = min(of_name[metric] for of_name in summary["baselines"].values())
        assert summary["test"][metric] < best


@pytest.mark.slow
def test_a_real_table_beats_the_baselines(workplace):
    """Handwritten digits of scikit-learn, a row of pixels per row."""
    digits = load_digits()
    table = pd.DataFrame(digits.images.reshape(-1, 8)).add_prefix("pixel")
    table.insert(0, "image", np.repeat(np.arange(len(digits.target)), 8))
    table.insert(1, "row", np.tile(np.arange(8), len(digits.target)))
    table["digit"] = np.repeat(digits.target, 8)
    summary = exported(table)
    best = max(of_name["accuracy"] for of_name in summary["baselines"].values())
    assert summary["test"]["accuracy"] > best + 0.05
