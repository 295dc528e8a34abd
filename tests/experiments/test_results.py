"""Committed results are what the commands write, from a clean checkout and the configs."""

import json
from pathlib import Path

import pytest

from experiments.commands import gradients
from experiments.commands.compare import report
from experiments.runs.config_loading import load_config

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "experiments" / "results"
RESULTS = sorted(FOLDER.glob("*/compare.json"))
SEARCHES = sorted(FOLDER.glob("*/search.json"))
GRADIENTS = sorted(FOLDER.glob("*/gradients.json"))


def name(path):
    return f"{path.parent.name}/{path.stem}"


def experiment_of(path):
    """Its config's name, which is that of the folder unless a comparison had further options."""
    return json.loads(path.read_text()).get("name", path.parent.name)


def config_of(path):
    return load_config(REPOSITORY / "configs" / f"{experiment_of(path)}.yaml")


def search_of(path):
    return FOLDER / experiment_of(path) / "search.json"


@pytest.mark.parametrize("path", [*RESULTS, *SEARCHES, *GRADIENTS], ids=name)
def test_a_result_comes_from_a_clean_tree(path):
    result = json.loads(path.read_text())
    assert result["git_changed_files"] == []
    assert len(result["git_revision"]) == 40
    # Results of earlier versions do not have it.
    for of_run in result.get("runs", []):
        assert of_run["git_changed_files"] == []


@pytest.mark.parametrize("path", RESULTS, ids=name)
def test_the_table_shows_the_metrics(path):
    result = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == report.to_markdown(result)
    assert path.with_suffix(".png").exists()
    assert report.published_metrics(result) == config_of(path).published


@pytest.mark.parametrize("path", GRADIENTS, ids=name)
def test_the_table_shows_the_norms(path):
    result = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == gradients.to_markdown(result)


@pytest.mark.parametrize("path", SEARCHES, ids=name)
def test_the_config_has_the_values_that_the_search_chose(path):
    """By cell; and those of the config's own cell are its main values."""
    config, search = config_of(path), json.loads(path.read_text())
    chosen = {cell: of_cell["chosen"] for cell, of_cell in search["cells"].items()}
    assert config.cells == chosen
    for key, value in chosen[config.model.cell].items():
        main = config.model_dump()
        for part in key.split("."):
            main = main[part]
        assert main == value, key


@pytest.mark.parametrize("path", [path for path in RESULTS if search_of(path).exists()], ids=name)
def test_the_compared_cells_have_the_values_that_the_search_chose(path):
    search, result = json.loads(search_of(path).read_text()), json.loads(path.read_text())
    variants = config_of(path).variants
    chosen = {cell: of_cell["chosen"] for cell, of_cell in search["cells"].items()}
    for model in result["models"]:
        assert model["own"] == {**chosen, **variants}[model["cell"]]


def test_there_are_results():
    assert {path.parent.name for path in RESULTS} >= {"adding", "digits", "jsb"}
