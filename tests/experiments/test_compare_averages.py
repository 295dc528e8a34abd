"""Means of a comparison over the values of a config's field."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from experiments.cli import main
from experiments.commands.compare import report
from experiments.commands.compare.averages import average, averaged_values
from experiments.errors import UserError
from experiments.tasks import adding as adding_task
from experiments.tasks import speech
from experiments.tasks.configs import CONFIGS


class Varied(adding_task.Config, frozen=True):
    """The adding problem in three lengths that have names."""

    kind: Literal["short", "long"] | None = None


@pytest.fixture
def varied(adding, monkeypatch):
    """A config of it; its lengths are 4, 6 and, without a name, 5."""
    build, lengths = adding_task.build, {"short": 4, "long": 6, None: 5}

    def build_varied(config, data_dir):
        return build(config.model_copy(update={"length": lengths[config.kind]}), data_dir)

    monkeypatch.setitem(CONFIGS, "adding", Varied)
    monkeypatch.setattr(adding_task, "build", build_varied)
    return adding


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_seed_is_trained_with_each_value(varied, write_config, capfd):
    config = write_config(varied)
    options = ["--cells", "gru,rnn", "--seeds", "2", "--output", "out"]
    assert main(["compare", str(config), "--average-over", "kind", *options]) == 0
    result = read(Path("out/compare.json"))
    for model in result["models"]:
        for seed, value in enumerate(model["test"]["mse"]["values"]):
            runs = [Path("out", kind, model["cell"], f"s{seed}") for kind in ("short", "long")]
            metrics = [read(run / "summary.json")["test"]["mse"] for run in runs]
            assert metrics[0] != metrics[1]
            assert value == pytest.approx(np.mean(metrics))
            of_values = result["average_over"]["values"]
            assert [
                of_values[kind][model["cell"]]["mse"]["values"][seed] for kind in ("short", "long")
            ] == metrics
    text = Path("out/compare.md").read_text()
    assert "| kind | mse, GRU | mse, RNN |" in text
    assert "| short | " in text
    assert text == report.to_markdown(result)
    # Some of the values are a part of it.
    capfd.readouterr()
    assert main(["compare", str(config), "--average-over", "kind=long", *options]) == 0
    assert "parameters, seed" not in capfd.readouterr().out
    (kind,) = read(Path("out/compare.json"))["average_over"]["values"]
    assert kind == "long"


def record(seed, mse, baseline, seconds):
    return (
        {
            "seed": seed,
            "model": "GRU, 4 units",
            "parameters": 93,
            "test": {"mse": mse},
            "baselines": {"nothing": {"mse": baseline}},
        },
        {"command": "c", "wall_seconds": seconds},
    )


def test_metrics_of_a_seed_are_means_over_the_values():
    first = [record(0, 1.0, 8.0, 10.0), record(1, 2.0, 8.0, 10.0)]
    second = [record(0, 3.0, 4.0, 30.0), record(1, 6.0, 4.0, 20.0)]
    summaries = average(
        [{"gru": [summary for summary, _ in of_value]} for of_value in (first, second)]
    )
    metas = average([{"gru": [meta for _, meta in of_value]} for of_value in (first, second)])
    result = report.gather(summaries, metas)
    (model,) = result["models"]
    assert model["seeds"] == [0, 1]
    assert model["test"]["mse"]["values"] == [2.0, 4.0]
    assert model["test"]["mse"]["deviation"] == pytest.approx(np.std([2.0, 4.0], ddof=1))
    assert model["wall_seconds"] == [20.0, 15.0]
    assert result["baselines"] == {"nothing": {"mse": 6.0}}


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("held_out_speaker", list(speech.SPEAKERS)),
        ("held_out_speaker=theo,george", ["theo", "george"]),
    ],
)
def test_values_are_those_of_the_field_except_none(option, values):
    averaged = averaged_values(speech.Config(), option)
    assert averaged is not None
    assert (averaged.field, averaged.values) == ("held_out_speaker", values)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("held_out_speker", ["'held_out_speker'", "Did you mean held_out_speaker?"]),
        ("noise", ["'noise'", "which are: held_out_speaker"]),
        ("task", ["'task'"]),
        ("held_out_speaker=theo,jorge", ["'jorge'", "Did you mean george?"]),
    ],
)
def test_wrong_fields_and_values_are_named(option, expected):
    with pytest.raises(UserError) as caught:
        averaged_values(speech.Config(), option)
    for part in expected:
        assert part in str(caught.value)
