"""Comparisons on the page of a folder of runs."""

import json
from pathlib import Path

import pytest

from experiments.commands.compare import report as comparison
from experiments.files import write_json
from experiments.runs.config_loading import check
from experiments.tasks import adding as task
from tests.experiments.report_page import MADE_WITH, PNG, page_of


@pytest.fixture
def make_comparison(make_run, published):
    """Makes the files of `compare`, with other metrics for each model."""

    def make(path, *, write=True):
        summaries = {}
        for cell, value in (("gru", 0.25), ("lstm", 0.75)):
            runs = [
                make_run(
                    f"{path}/{cell}/s{seed}",
                    test=value + seed / 16,
                    seed=seed,
                    model={"hidden_size": 4, "cell": cell},
                )
                for seed in range(2)
            ]
            summaries[cell] = [json.loads(run.summary.read_text()) for run in runs]
        config = check(task.Config, published, where="test")
        metas = {cell: [{"wall_seconds": 1.0}] * 2 for cell in summaries}
        result = comparison.gather(summaries, metas, config.published)
        result = {**MADE_WITH, "command": "compare them", "name": "sums", **result}
        if write:
            write_json(Path(path, "compare.json"), result)
            Path(path, "compare.png").write_bytes(PNG)
        return result

    return make


def test_a_comparison_has_its_own_table(make_comparison):
    result = make_comparison("runs/compare/sums")
    document = page_of()
    _, rows = comparison.table(result)
    for row in rows:
        assert " ".join(" ".join(row).replace("+-", "±").split()) in document.text
    assert "compare them" in document.text
    assert len(document.all("section")) == 1
    assert "gru/s0 finished" in document.text
    # Its plot, the curves of loss and metric, and the plot of each of the four runs.
    assert len(document.all("img")) == 3 + 4
    assert "model parameters seeds test mse" in document.text
    assert document.text.count("mean of all sums") == 1


def test_an_unfinished_comparison_is_one_experiment(no_curves, make_comparison):
    make_comparison("runs/compare/sums", write=False)
    document = page_of()
    assert len(document.all("section")) == 1
    assert "mean of 2 seeds LSTM, 4 units 0.7812 ± 0.0442" in document.text


def test_a_comparison_without_runs_has_a_page(make_comparison):
    make_comparison("made")
    Path("made/gradients.md").write_text("Norms:\n\n| T | 0 |\n| --- | ---: |\n| GRU | 1e-3 |\n")
    results = Path("results/sums")
    results.mkdir(parents=True)
    for name in ("compare.json", "compare.png", "gradients.md"):
        (results / name).write_bytes(Path("made", name).read_bytes())
    document = page_of("results", out="results/report.html")
    assert "sums" in document.text
    assert "Norms: T 0 GRU 1e-3" in document.text
    assert "Runs" not in document.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"models": []}, "models"),
        ({"baselines": 3}, "baselines"),
        ({"published": [{"model": "GRU"}]}, "published.0"),
    ],
)
def test_a_corrupted_comparison_is_named(no_curves, make_comparison, capsys, change, expected):
    result = make_comparison("runs/compare/sums")
    write_json(Path("runs/compare/sums/compare.json"), {**result, **change})
    text = page_of().text
    error = capsys.readouterr().err
    assert f"runs/compare/sums/compare.json is corrupted: {expected}" in error
    assert "gru/s0 finished" in text
