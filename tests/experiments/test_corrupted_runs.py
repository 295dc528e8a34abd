"""A corrupted file of a run gives one message, and its advice works."""

import json
import shutil

import pytest
import yaml

from experiments.cli import main
from experiments.runs.directory import RunDirectory
from experiments.runs.records import read_meta, read_summary
from gru_jax import training
from tests.experiments.conftest import ADDING

DEEP = "[" * 100_000
DAMAGED = ["", "{}", "null", "[]", "{", "7", DEEP, '{"a": ' * 100_000, "9" * 5000, b"\xff\xfe"]

CHANGES = [
    {"test": 5},
    {"test": {"mse": "low"}},
    {"test": None},
    {"best_step": "3"},
    {"parameters": None},
    {"baselines": [1]},
    {"status": "lost"},
]


LINES = [
    "",
    "{}",
    "null",
    "7",
    "[" * 100_000,
    '{"step": true}',
    '{"step": -1}',
    '{"step": 1' + "0" * 400 + "}",
    '{"step": 3, "split": null}',
    '{"step": 3, "split": "train", "seconds": "5"}',
    '{"step": 3, "split": "train", "loss": [1]}',
    '{"step": 3, "split": "train", "loss": 1' + "0" * 400 + "}",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a config and its finished run in `run`."""
    directory = tmp_path_factory.mktemp("trained")
    (directory / "tiny.yaml").write_text(yaml.safe_dump(ADDING))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(["train", "tiny.yaml", "--run-dir", "run"]) == 0
    return directory


@pytest.fixture
def finished(trained, workplace, capfd):
    """The config of a finished run in `run`."""
    shutil.copytree(trained, workplace, dirs_exist_ok=True)
    capfd.readouterr()
    return workplace / "tiny.yaml"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def train(config):
    return main(["train", str(config), "--run-dir", "run"])


def test_corrupted_summary(finished, workplace, user_error, capfd):
    path = workplace / "run" / "summary.json"
    before = path.read_bytes()
    wrong = [{**json.loads(before), **change} for change in CHANGES]
    for content in [*DAMAGED, *map(json.dumps, wrong)]:
        write(path, content)
        message = user_error("train", finished, "--run-dir", "run")
        assert user_error("export", "run", "--to", "safetensors") == message
        assert message.startswith("run/summary.json is corrupted: ")
        assert "Delete it and call the command that made it again" in message
        assert len(message) < 400
    path.unlink()
    assert train(finished) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_corrupted_metadata(finished, workplace, user_error, capfd, is_finished):
    path = workplace / "run" / "meta.json"
    if not is_finished:
        (workplace / "run" / "summary.json").unlink()
    for content in [*DAMAGED, json.dumps({"command": 3})]:
        write(path, content)
        message = user_error("train", finished, "--run-dir", "run")
        assert message.startswith("run/meta.json is corrupted: ")
        assert "Delete it: only the record of command" in message
        assert len(message) < 400
    path.unlink()
    assert train(finished) == 0


def test_corrupted_line_of_metrics(finished, workplace, capfd):
    run = workplace / "run"
    (run / "summary.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines()
    for line in LINES:
        (run / "metrics.jsonl").write_text("\n".join([rows[0], line, *rows[1:]]) + "\n")
        assert train(finished) == 1
        message = capfd.readouterr().err
        assert "Traceback" not in message
        assert message.startswith("Line 2 of run/metrics.jsonl is not a row of metrics"), line[:100]
        assert "Delete that line" in message
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert train(finished) == 0


@pytest.mark.parametrize("content", ["", '{"step": 1}\n', '{"step": 3, "split": "validation"}\n'])
def test_lost_metrics(finished, workplace, content):
    """A run without its rows is finished without their points of the learning curves."""
    run = workplace / "run"
    before = (run / "summary.json").read_bytes()
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").write_text(content)
    assert train(finished) == 0
    assert (run / "summary.json").read_bytes() == before


def test_a_summary_that_is_a_directory(finished, workplace, user_error):
    path = workplace / "run" / "summary.json"
    path.unlink()
    path.mkdir()
    assert user_error("train", finished, "--run-dir", "run").startswith(
        "run/summary.json cannot be read: "
    )


def test_intact_records_are_read_as_they_are(finished, workplace):
    run = RunDirectory(workplace / "run")
    assert read_summary(run) == json.loads(run.summary.read_text())
    assert read_meta(run) == json.loads(run.meta.read_text())


def test_rows_of_other_writers_are_rows(tmp_path):
    """A row needs a step, and may have any numbers."""
    writer = training.JsonlWriter(tmp_path / "metrics.jsonl")
    rows = [{"step": 0}, {"step": 1, "loss": None, "count": 7, "split": "my own"}]
    for row in rows:
        writer.write(row)
    assert training.read_metrics(writer.path) == rows
