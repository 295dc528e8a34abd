"""The report of a comparison: its table, its plots and its curves."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from experiments.commands.compare import curves, report


def compare(config, output, *options):
    return main(["compare", str(config), "--output", str(output), "--cells", "gru", *options])


def read(path):
    return json.loads(path.read_text())


def test_the_table_has_means_and_deviations_over_the_seeds():
    values = [0.5, 0.25, 0.75]
    summaries = [
        {
            "model": "GRU, 4 units",
            "parameters": 1234,
            "seed": seed,
            "test": {"mse": value},
            "baselines": {"nothing": {"mse": 1.5}},
        }
        for seed, value in enumerate(values)
    ]
    result = report.gather({"gru": summaries}, {"gru": [{"wall_seconds": 1.0}] * 3})
    summary = result["models"][0]["test"]["mse"]
    assert summary["values"] == values
    assert (summary["mean"], summary["deviation"]) == (np.mean(values), np.std(values, ddof=1))
    table = report.to_markdown({"name": "a", "command": "b", **result})
    assert "| GRU, 4 units | 1,234 | 0, 1, 2 | 0.5000 +- 0.2500 |" in table
    assert "| nothing |  |  | 1.5000 |" in table


def test_a_metric_without_baselines_is_plotted(tmp_path):
    summary = {"mean": 1.0, "deviation": None, "values": [1.0]}
    model = {"model": "GRU", "test": {"bleu": summary, "cross_entropy": summary}}
    result = {"name": "a", "models": [model], "baselines": {"nothing": {"bleu": 0.5}}}
    report.plot(result, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").exists()


def test_corrupted_metrics_are_named_and_the_table_is_written(adding, write_config, capsys):
    config = write_config(adding)
    assert compare(config, "runs", "--seeds", "1", "--cells", "gru") == 0
    metrics = Path("runs/gru/s0/metrics.jsonl")
    metrics.write_text("{}\n" + metrics.read_text())
    Path("runs/compare.md").unlink()
    assert compare(config, "runs", "--seeds", "1", "--cells", "gru") == 2
    assert "runs/gru/s0/metrics.jsonl" in capsys.readouterr().err
    assert Path("runs/compare.md").exists()


def test_curves_are_means_over_the_steps_that_all_runs_have(tmp_path, monkeypatch):
    """The train rows, NaN and the step at which one run had ended are left out."""

    def rows(values):
        validation = [{"step": s, "split": "validation", "mse": v} for s, v in values.items()]
        return [{"step": 1, "split": "train", "mse": 9.0}, *validation]

    runs = [rows({1: 2.0, 2: 0, 3: 4.0}), rows({1: 4.0, 2: 1.0, 3: None, 4: 1.0})]
    steps, values = curves.validation_values(runs, "mse")
    assert steps == [1, 2]
    np.testing.assert_array_equal(values, [[2, 0], [4, 1]])

    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    result = {"name": "a", "models": [{"cell": "gru", "model": "GRU", "test": {"mse": {}}}]}
    curves.plot_curves(result, {"gru": runs}, tmp_path / "curves.png")
    (line,) = figures[0].axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 0.5]])


@pytest.mark.parametrize(
    ("baseline", "scale"), [(2e-5, "linear"), (0.2, "log"), (0.0, "linear"), (-1.0, "linear")]
)
def test_values_of_different_magnitude_have_a_log_axis(tmp_path, monkeypatch, baseline, scale):
    figures = []
    monkeypatch.setattr(report, "save", lambda figure, path: figures.append(figure))
    summary = {"mean": 2e-5, "deviation": 1e-5, "values": [1e-5, 3e-5]}
    result = {
        "name": "a",
        "models": [{"model": "GRU", "test": {"mse": summary}}],
        "baselines": {"nothing": {"mse": baseline}},
    }
    report.plot(result, tmp_path / "compare.png")
    (panel,) = figures[0].axes
    assert panel.get_xscale() == scale


def test_published_metrics_are_in_the_table(published, write_config, capfd):
    assert compare(write_config(published), "out", "--seeds", "1") == 0
    result = read(Path("out/compare.json"))
    assert result["published"] == published["published"]
    table = Path("out/compare.md").read_text()
    assert "| RNN, Doe 1999 |  |  | 0.125 |" in table
    assert table.endswith("\nPublished: Doe 1999, table 7; Roe 2015.\n")
    assert table.strip() in capfd.readouterr().out

    del result["published"]
    assert "Published" not in report.to_markdown(result)


@pytest.mark.usefixtures("rendered")
def test_a_single_seed_has_no_deviation(adding, write_config):
    assert compare(write_config(adding), "out", "--seeds", "1") == 0
    (model,) = read(Path("out/compare.json"))["models"]
    assert model["test"]["mse"]["deviation"] is None
    assert Path("out/compare.png").read_bytes().startswith(b"\x89PNG")
