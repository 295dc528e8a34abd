"""Committed results are what the commands write."""

import json
import re
from pathlib import Path

import pytest

from experiments.commands.compare import report
from experiments.runs.config_loading import load_config

REPOSITORY = Path(__file__).parents[2]
RESULTS = sorted((REPOSITORY / "experiments" / "results").glob("*/compare.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_table_shows_the_metrics(path):
    result = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == report.to_markdown(result)
    assert path.with_suffix(".png").exists()
    config = load_config(REPOSITORY / "configs" / f"{path.parent.name}.yaml")
    assert report.published_metrics(result) == config.published


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_documentation_shows_the_metrics(path):
    page = (REPOSITORY / "docs" / "experiments.md").read_text()
    row = re.search(rf"^\| `{path.parent.name}`: .*\|$", page, re.MULTILINE)
    assert row is not None
    cells = dict(zip(("gru", "lstm", "rnn"), row[0].split("|")[3:6], strict=True))
    models = {model["cell"]: model for model in json.loads(path.read_text())["models"]}
    assert models.keys() == {cell for cell, text in cells.items() if text.strip()}
    for cell, model in models.items():
        means = [metric["mean"] for metric in model["test"].values()]
        assert any(is_rounded(cells[cell], mean) for mean in means)


def is_rounded(text, value):
    """Whether a printed number is this value, to its number of digits."""
    number, digits, power = re.search(r"((?:\d+)\.(\d+))(?:e(-?\d+))?", text).groups()
    percent = -2 if "%" in text else 0
    power = int(power or 0) + percent
    return abs(float(number) * 10**power - value) <= 0.501 * 10.0 ** (power - len(digits))


def test_there_are_results():
    assert {path.parent.name for path in RESULTS} >= {"adding", "digits", "jsb"}
