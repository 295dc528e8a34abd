"""The command `interop`: what it writes says what it measured."""

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.interop import command, report
from experiments.interop.pairs import Pair, all_pairs

ROOT = Path(__file__).parents[2]


def test_the_command_writes_figures_and_tables(workplace, capsys, monkeypatch):
    pairs = [
        Pair("one", "cell", direction, "float32", lambda seed, error=error: error * seed)
        for direction, error in (("load", 1e-7), ("dump", 2e-7))
    ]
    monkeypatch.setattr(command, "all_pairs", lambda: pairs)
    monkeypatch.setattr(command, "FORMATS", {"ours": command.FORMATS["ours"]})
    assert main(["interop", "--seeds", "3", "--files", "9", "--output", "out"]) == 0
    result = json.loads(Path("out", "interop.json").read_text())
    assert [pair["error"] for pair in result["pairs"]] == [2e-7, 4e-7]
    (row,) = result["files"]
    assert row["hostile_refused"] == row["hostile"] > 10
    assert row["damaged_refused"] + row["damaged_loaded"] == row["damaged"] == 9
    assert row["wrong"] == 0
    table = Path("out", "interop.md").read_text()
    assert table == report.to_markdown(result)
    assert "| one | 1 | 2.0e-07 | 4.0e-07 |  |  |" in table
    assert table.strip() in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--seeds", "0"], ["--files", "-1"], ["--slow-files", "-1"]])
def test_wrong_options_are_named(options, refused):
    assert " is ".join(options) in refused("interop", *options)


def test_every_pair_is_measured_in_both_directions():
    rows = [(pair.name, pair.variant, pair.direction) for pair in all_pairs()]
    assert len(set(rows)) == len(rows)
    for name, variant, direction in rows:
        other = "dump" if direction == "load" else "load"
        assert (name, variant, other) in rows


def test_tables_are_those_of_the_figures():
    result = json.loads((ROOT / "benchmarks" / "interop.json").read_text())
    assert (ROOT / "benchmarks" / "interop.md").read_text() == report.to_markdown(result)


def test_the_figures_are_those_of_exact_conversions_and_safe_readers():
    result = json.loads((ROOT / "benchmarks" / "interop.json").read_text())
    for pair in result["pairs"]:
        assert pair["error"] <= {"float32": 1e-6, "float64": 1e-14}[pair["dtype"]]
    for row in result["files"]:
        assert row["wrong"] == 0
        assert row["hostile_refused"] == row["hostile"]
