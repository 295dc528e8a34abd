"""What a command says while it runs: on a terminal, in a pipe, and at the end of a training."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import program, status
from experiments.commands.train.closing import closing_words
from experiments.runs.config_loading import find_config, load_config, with_values
from experiments.runs.directory import RunDirectory
from experiments.runs.expected import expected_metrics
from experiments.runs.training_line import TrainingLine

REPOSITORY = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stream(monkeypatch, request):
    """Stands in for stderr, with quick intervals."""
    stream = request.param()
    # Not sys.stderr itself, which pytest replaces once more before the test.
    monkeypatch.setattr(status, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setattr(status, "_is_on", [True])
    monkeypatch.setattr(status, "INTERVAL", 0.01)
    monkeypatch.setattr(status, "REFRESH", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    return stream


def wait_for(stream, text):
    end = time.monotonic() + 5
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    assert text in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO], indirect=True)
def test_a_pipe_gets_lines(stream):
    with status.doing("Compiling") as say:
        wait_for(stream, "Compiling (0 s)\n")
        say("Step 3")
        wait_for(stream, "Step 3 (0 s)\n")
    text = stream.getvalue()
    assert text.startswith("Compiling\nCompiling (0 s)\n")
    assert not re.search("[\r\x1b]", text)


@pytest.mark.parametrize("stream", [Terminal], indirect=True)
def test_a_terminal_gets_one_line_of_its_width(stream):
    with status.doing("Compiling") as say:
        wait_for(stream, "Compiling (0 s)")
        say("x" * 100)
        wait_for(stream, "xxx")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert {len(line) for line in text.strip().split("\r")} == {39}
    assert "\x1b" not in text


@pytest.mark.parametrize("stream", [Terminal], indirect=True)
def test_a_dumb_terminal_gets_lines(stream, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with status.doing("Compiling"):
        wait_for(stream, "Compiling (0 s)\n")
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO], indirect=True)
def test_nothing_is_said_of_what_is_quick(stream):
    with status.doing("Reading", after=60):
        pass
    assert stream.getvalue() == ""


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken], indirect=True)
def test_a_pipe_without_reader_stops_nothing(stream):
    with status.doing("Compiling"):
        time.sleep(0.05)


def test_nothing_is_said_within_another_program(capfd):
    with status.doing("Compiling") as say:
        say("Step 3")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, words):
    assert status.duration(seconds) == words


def test_the_time_left_is_that_of_steps_and_not_of_compilations(monkeypatch):
    class Writer(list):
        resume_from = None
        write = list.append

    said, clock, writer = [], iter([30.0, 31.0, 60.0, 61.0]), Writer()
    line = TrainingLine(writer, said.append, steps=1000, monitor="mean_error")
    monkeypatch.setattr("experiments.runs.training_line.time.monotonic", lambda: next(clock))
    rows = [
        {"step": 10, "split": "train", "loss": 0.5},
        {"step": 100, "split": "train", "loss": 0.25},
        {"step": 100, "split": "validation", "mean_error": 0.125},
        {"step": 200, "split": "train", "loss": 1e-5},
    ]
    for row in rows:
        line.write(row)
    assert writer == rows
    assert said == [
        "Step 10 of 1,000, loss 0.5000",
        "Step 100 of 1,000, loss 0.2500, 10 s left",
        "Step 100 of 1,000, loss 0.2500, validation mean error 0.1250",
        "Step 200 of 1,000, loss 1.00e-05, validation mean error 0.1250, 8 s left",
    ]


def test_the_projects_settings_have_expected_metrics():
    digits = load_config(find_config("digits"))
    expected = expected_metrics(digits)
    published = json.loads((REPOSITORY / "experiments/results/digits/compare.json").read_text())
    assert expected == published["models"][0]["test"]
    other_seed = with_values(digits, {"seed": 7}, where="test")
    assert expected_metrics(other_seed) == expected
    for key, value in (("training.steps", 2), ("model.hidden_size", 8), ("model.cell", "lstm")):
        assert expected_metrics(with_values(digits, {key: value}, where="test")) is None


def test_the_last_words(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.summary.write_text(
        json.dumps(
            {
                "task": "digits",
                "seed": 0,
                "model": "GRU, 64 units",
                "parameters": 13386,
                "status": "finished",
                "steps": 2000,
                "best_step": 1900,
                "baselines": {},
                "validation": {"cross_entropy": 0.05, "accuracy": 0.98},
                "test": {"cross_entropy": 0.05, "accuracy": 0.98},
            }
        )
    )
    made = {"command": "", "git_revision": "", "git_changed_files": [], "versions": {}}
    run.meta.write_text(json.dumps({**made, "device": {}, "wall_seconds": 62.0}))
    monkeypatch.setattr("experiments.commands.train.closing.typed", lambda: "gru-jax")
    path = find_config("digits")
    assert closing_words(run, path, load_config(path)).splitlines() == [
        "Reached:  cross entropy 0.0500, accuracy 0.9800",
        "Expected: cross entropy 0.0510 ± 0.0086, accuracy 0.9833 ± 0.0062 (5 seeds)",
        "Took:     1 min 2 s",
        "",
        "Next:",
        f"  gru-jax report {tmp_path}",
        f"  gru-jax export {tmp_path}/run --to safetensors",
        "  gru-jax compare digits",
    ]


def test_commands_are_shown_as_they_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(program, "PROGRAM", "python -m experiments")
    assert program.typed() == f"{Path('.venv', 'bin', 'python')} -m experiments"
    monkeypatch.setenv("PATH", str(python.parent))
    assert program.typed() == "python -m experiments"


@pytest.mark.slow
def test_a_training_is_never_silent_for_long(adding, write_config):
    """In a pipe: the first word, every stage, and no terminal's control characters."""
    adding["training"]["steps"] = 20
    config = write_config(adding)
    lines, times = [], [time.monotonic()]
    with subprocess.Popen(
        [sys.executable, "-m", "experiments", "train", str(config), "--run-dir", "run"],
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            times.append(time.monotonic())
    assert process.returncode == 0
    text = "".join(lines)
    stages = ["Loading JAX", "Loading the data", "GRU, 4 units", "Compiling", "Testing"]
    assert [text.index(stage) for stage in stages] == sorted(text.index(stage) for stage in stages)
    assert "Next:\n" in text
    assert not re.search("[\r\x1b]", text)
    # Twice the interval: the test runs beside others.
    assert max(b - a for a, b in itertools.pairwise(times)) < 2 * status.INTERVAL
