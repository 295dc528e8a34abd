"""The command `interop`: its reports show what it measured."""

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.interop import command, report
from experiments.interop.measurements import Measurement, all_measurements

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_writes_results_and_tables(workplace, capsys, monkeypatch):
    rows = [
        Measurement("one", "cell", direction, "float32", lambda seed, error=error: error * seed)
        for direction, error in (("load", 1e-7), ("dump", 2e-7))
    ]
    monkeypatch.setattr(command, "all_measurements", lambda: rows)
    monkeypatch.setattr(command, "FORMATS", {"own_safetensors": command.FORMATS["own_safetensors"]})
    assert main(["interop", "--seeds", "3", "--files", "9", "--output", "out"]) == 0
    result = json.loads(Path("out", "interop.json").read_text())
    assert [row["error"] for row in result["measurements"]] == [2e-7, 4e-7]
    (row,) = result["files"]
    assert row["adversarial_rejected"] == row["adversarial"] > 10
    assert row["corrupted_rejected"] + row["corrupted_loaded"] == row["corrupted"] == 9
    assert row["unexpected"] == 0
    table = Path("out", "interop.md").read_text()
    assert table == report.to_markdown(result)
    assert "| one | 1 | 2.0e-07 | 4.0e-07 |  |  |" in table
    assert table.strip() in capsys.readouterr().out


@pytest.mark.slow
def test_the_campaign_reports_every_format(workplace, monkeypatch):
    names = ("own_safetensors", "torch_pt")
    monkeypatch.setattr(command, "FORMATS", {name: command.FORMATS[name] for name in names})
    assert main(["interop", "fuzz", "--files", "200", "--output", "out"]) == 0
    result = json.loads(Path("out", "fuzz.json").read_text())
    for row in result["files"]:
        assert row["adversarial_rejected"] == row["adversarial"] >= 15
        assert row["corrupted"] == 200
        assert row["unexpected"] == 0
    assert Path("out", "fuzz.md").read_text() == report.files_to_markdown(result)


@pytest.mark.parametrize("options", [["--seeds", "0"], ["--files", "-1"], ["--slow-files", "-1"]])
def test_wrong_options_are_named(options, refused):
    assert " is ".join(options) in refused("interop", *options)


def test_every_model_is_measured_in_both_directions():
    rows = [(row.name, row.variant, row.direction) for row in all_measurements()]
    assert len(set(rows)) == len(rows)
    for name, variant, direction in rows:
        other = "dump" if direction == "load" else "load"
        assert (name, variant, other) in rows


def test_tables_are_those_of_the_results():
    result = json.loads((ROOT / "benchmarks" / "interop.json").read_text())
    assert (ROOT / "benchmarks" / "interop.md").read_text() == report.to_markdown(result)


def test_the_results_are_those_of_exact_conversions_and_safe_readers():
    result = json.loads((ROOT / "benchmarks" / "interop.json").read_text())
    for row in result["measurements"]:
        assert row["error"] <= {"float32": 1e-6, "float64": 1e-14}[row["dtype"]]
    for row in result["files"]:
        assert row["unexpected"] == 0
        assert row["adversarial_rejected"] == row["adversarial"]
