"""Committed results are what the commands write."""

import json
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


def test_there_are_results():
    assert {path.parent.name for path in RESULTS} >= {"adding", "digits", "jsb"}
