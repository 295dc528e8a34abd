"""The search of a comparison: the same for each cell, resumed, and chosen by validation."""

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.models.recurrent import CELL_OPTIONS, cell_options
from experiments.runs.config_loading import load_config
from experiments.tasks import adding as adding_task
from gru_jax.cells import CELLS

SPACE = {
    "model.chrono_bias": {"choices": [None, 5.0]},
    "optimizer.learning_rate": {"choices": [1e-3, 3e-2]},
}
GRID = [
    {"model.chrono_bias": bias, "optimizer.learning_rate": rate}
    for bias in (None, 5.0)
    for rate in (1e-3, 3e-2)
]


@pytest.fixture
def searched(adding):
    return {**adding, "sweep": SPACE}


def compare(config, output, *options):
    return main(["compare", str(config), "--output", str(output), "--seeds", "1", *options])


def read_search(output):
    return json.loads(Path(output, "search.json").read_text())


@pytest.mark.slow
def test_each_cell_gets_the_same_grid_and_its_best_point(searched, write_config, capfd):
    own = {"cells": {"rnn": {"optimizer.learning_rate": 0.5}}}
    assert compare(write_config({**searched, **own}), "out", "--search") == 0
    cells = read_search("out")["cells"]
    for cell in ("gru", "lstm"):
        assert [trial["values"] for trial in cells[cell]["trials"]] == GRID
    # The plain RNN has no gate to initialise.
    assert [trial["values"] for trial in cells["rnn"]["trials"]] == [
        {"optimizer.learning_rate": rate} for rate in (1e-3, 3e-2)
    ]
    models = json.loads(Path("out/compare.json").read_text())["models"]
    for model, (cell, of_cell) in zip(models, cells.items(), strict=True):
        completed = [trial for trial in of_cell["trials"] if trial["state"] == "complete"]
        best = min(completed, key=lambda trial: trial["validation"])
        assert of_cell["chosen"] == best["values"] == model["own"]
        assert (of_cell["model"], of_cell["parameters"]) == (model["model"], model["parameters"])
        # The same seed and settings give the same validation metric when the seeds are trained.
        summary = json.loads(Path("out", cell, "s0", "summary.json").read_text())
        assert summary["validation"]["mse"] == pytest.approx(best["validation"], rel=1e-4)
        assert best["steps"] == 6
    # The printed values, put into the config, reproduce the comparison without a search.
    chosen = {cell: of_cell["chosen"] for cell, of_cell in cells.items()}
    printed = capfd.readouterr().out
    assert "cells:\n  gru:\n    model.chrono_bias: " in printed
    assert compare(write_config({**searched, "cells": chosen}), "out") == 0
    assert "parameters, seed" not in capfd.readouterr().out


def test_the_test_split_is_not_evaluated_before_the_choice(searched, write_config, monkeypatch):
    """Neither is it when the values are chosen and written."""
    build, evaluated = adding_task.build, []

    def watched(config, data_dir):
        task = build(config, data_dir)

        def evaluate(params, split):
            evaluated.append(split)
            return task.evaluate(params, split)

        return adding_task.Task(**{**vars(task), "evaluate": evaluate})

    def stop(found, *_, **__):
        assert found["gru"]["chosen"] in GRID
        raise OSError("stopped before the seeds")

    monkeypatch.setattr(adding_task, "build", watched)
    monkeypatch.setattr("experiments.commands.compare.command.write_search", stop)
    assert compare(write_config(searched), "out", "--search", "--cells", "gru") == 1
    assert set(evaluated) == {"validation"}
    assert not list(Path("out").rglob("summary.json"))


@pytest.mark.slow
def test_an_interrupted_search_resumes(searched, write_config, interrupted_at_step, capfd):
    config, options = write_config(searched), ("--search", "--cells", "gru")
    with interrupted_at_step(4, in_run=Path("out/search/gru/trial-2")):
        assert compare(config, "out", *options) == 130
    assert "To resume: python -m experiments compare" in capfd.readouterr().err
    assert not Path("out/search.json").exists()
    earlier = Path("out/search/gru/trial-0/meta.json").read_text()
    assert compare(config, "out", *options) == 0
    values = [trial["values"] for trial in read_search("out")["cells"]["gru"]["trials"]]
    assert len(values) == len(GRID)
    assert all(point in values for point in GRID)
    assert Path("out/search/gru/trial-0/meta.json").read_text() == earlier
    resumed = json.loads(Path("out/search/gru/trial-2/meta.json").read_text())
    assert len(resumed["earlier_sessions"]) == 1


@pytest.mark.slow
def test_a_search_of_another_config_is_rejected(searched, write_config, user_error):
    assert compare(write_config(searched), "out", "--search", "--cells", "gru") == 0
    message = user_error(
        "compare", write_config(searched), "--output", "out", "--search", "--cells", "gru",
        "--seed", "7", "--model.hidden-size", "5",
    )  # fmt: skip
    assert "holds a study of other values of the config" in message
    assert "seed (7 here, 0 there)" in message


def test_ranges_are_sampled_equally_for_each_cell(searched, write_config):
    searched["sweep"] = {"optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    assert compare(write_config(searched), "out", "--search", "--trials", "3") == 0
    values = [
        [trial["values"] for trial in of_cell["trials"]]
        for of_cell in read_search("out")["cells"].values()
    ]
    assert len(values) == len(values[0]) == 3
    assert values[0] == values[1] == values[2]


def test_a_diverged_trial_is_the_worst(searched, write_config):
    searched["optimizer"] = {"name": "sgd"}
    searched["sweep"] = {"optimizer.learning_rate": {"choices": [1e30, 1e-3]}}
    assert compare(write_config(searched), "out", "--search", "--cells", "gru") == 0
    gru = read_search("out")["cells"]["gru"]
    assert gru["chosen"] == {"optimizer.learning_rate": 1e-3}
    assert (gru["trials"][0]["state"], gru["trials"][0]["validation"]) == ("diverged", None)
    assert gru["trials"][1]["state"] == "complete"
    assert load_config(Path("out/gru/s0/config.yaml")).optimizer.learning_rate == 1e-3


def test_a_search_without_a_completed_trial_is_rejected(searched, write_config, capfd):
    searched["optimizer"] = {"name": "sgd"}
    searched["sweep"] = {"optimizer.learning_rate": {"choices": [1e30]}}
    assert compare(write_config(searched), "out", "--search", "--cells", "gru") == 2
    assert "No trial of gru was completed: see out/search/gru." in capfd.readouterr().err


def test_the_size_is_not_searched(adding, write_config, user_error):
    adding["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    message = user_error("compare", str(write_config(adding)), "--search")
    assert "sweep: model.hidden_size is chosen by the command compare." in message


def test_options_of_cells_are_fields_of_the_model(adding):
    model = adding_task.Config(**adding).model_dump()["model"]
    assert {*CELL_OPTIONS} <= model.keys()
    options = {cell: cell_options(cell) for cell in CELLS}
    assert options == {"gru": ["reset", "chrono_bias"], "lstm": ["chrono_bias"], "rnn": []}
