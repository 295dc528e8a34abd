"""The command `interop`: its reports show what it measured."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.interop import command, report
from experiments.interop.bad_files.fuzz import Outcome
from experiments.interop.measurements import Measurement, all_measurements

ROOT = Path(__file__).parents[2]


def test_the_command_writes_results_and_tables(workplace, capsys, monkeypatch):
    rows = [
        Measurement("one", "cell", direction, "float32", lambda seed, error=error: error * seed)
        for direction, error in (("load", 1e-7), ("dump", 2e-7))
    ]
    monkeypatch.setattr(command, "all_measurements", lambda: rows)
    assert main(["interop", "--seeds", "3", "--output", "out"]) == 0
    result = json.loads(Path("out", "interop.json").read_text())
    assert [row["error"] for row in result["measurements"]] == [2e-7, 4e-7]
    table = Path("out", "interop.md").read_text()
    assert table == report.to_markdown(result)
    assert "| one | 1 | 2.0e-07 | 4.0e-07 |  |  |" in table
    assert table.strip() in capsys.readouterr().out


@pytest.mark.slow
def test_the_campaign_reports_every_format(workplace, monkeypatch):
    names = ("own_safetensors", "keras_h5")
    monkeypatch.setattr(command, "FORMATS", {name: command.FORMATS[name] for name in names})
    options = ["--files", "20", "--constructed", "5", "--large-mb", "2", "--output", "out"]
    assert main(["interop", "fuzz", *options]) == 0
    result = json.loads(Path("out", "fuzz.json").read_text())
    for row in result["files"]:
        assert row["adversarial"]["rejected"] == row["adversarial"]["files"] >= 12
        assert row["constructed"]["files"] == 5
        assert row["corrupted"]["rejected"] + row["corrupted"]["loaded"] == 20
        assert row["valid"]["loaded"] == 1
        assert row["valid_bytes"] == pytest.approx(2e6, rel=0.05)
        assert not row["unexpected"]
    assert Path("out", "fuzz.md").read_text() == report.fuzz_to_markdown(result)
    assert not Path("out", "findings").exists()


def test_findings_are_written_and_counted(workplace, monkeypatch):
    """The exit code says so, too."""
    made = command.FORMATS["own_safetensors"](Path())
    outcomes = {b"1": "a crash"}
    monkeypatch.setattr(
        type(made), "fuzz", lambda _, files: (Outcome(outcomes.get(f, "loaded")) for f in files)
    )
    made = dataclasses.replace(made, constructed=lambda *_: iter([b"0", b"1"]))
    monkeypatch.setattr(command, "FORMATS", {"own": lambda _: made})
    options = ["--files", "1", "--constructed", "2", "--large-mb", "1", "--output", "out"]
    assert main(["interop", "fuzz", *options]) == 1
    (row,) = json.loads(Path("out", "fuzz.json").read_text())["files"]
    assert row["unexpected"] == ["constructed 1: a crash"]
    assert row["constructed"]["loaded"] == 1
    (finding,) = Path("out", "findings").iterdir()
    assert finding.read_bytes() == b"1"


def test_a_format_that_is_read_again_replaces_its_row(workplace, monkeypatch):
    made = command.FORMATS["own_safetensors"](Path())
    outcome = Outcome("a hang")
    monkeypatch.setattr(type(made), "fuzz", lambda _, files: (outcome for _ in files))
    formats = {
        name: lambda _, suffix=f".{name}": dataclasses.replace(made, suffix=suffix)
        for name in ("one", "other")
    }
    monkeypatch.setattr(command, "FORMATS", formats)
    options = ["--files", "1", "--constructed", "1", "--large-mb", "1", "--output", "out"]
    assert main(["interop", "fuzz", *options]) == 1
    first, kept = json.loads(Path("out", "fuzz.json").read_text())["files"]
    outcome = Outcome("loaded")
    assert main(["interop", "fuzz", *options, "--formats", "one"]) == 1
    result = json.loads(Path("out", "fuzz.json").read_text())
    again, other = result["files"]
    assert other == kept
    assert again["format"] == first["format"]
    assert first["unexpected"]
    assert not again["unexpected"]
    text = report.fuzz_to_markdown(result)
    assert all(f"`{row['command']}`" in text for row in (again, other))
    assert main(["interop", "fuzz", *options, "--formats", "other"]) == 0


def test_a_wrong_format_is_named(user_error):
    assert "Did you mean checkpoint?" in user_error("interop", "fuzz", "--formats", "checkpoints")


@pytest.mark.parametrize(
    "options", [["--seeds", "0"], ["fuzz", "--files", "0"], ["fuzz", "--large-mb", "-1"]]
)
def test_wrong_options_are_named(options, user_error):
    assert " is ".join(options[-2:]) in user_error("interop", *options)


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


def test_the_campaign_found_nothing_unexpected():
    result = json.loads((ROOT / "benchmarks" / "fuzz.json").read_text())
    assert (ROOT / "benchmarks" / "fuzz.md").read_text() == report.fuzz_to_markdown(result)
    for row in result["files"]:
        assert row["unexpected"] == []
        assert row["adversarial"]["rejected"] == row["adversarial"]["files"]
        assert row["valid"]["loaded"] == 1
