"""Runs that are killed, stopped and resumed, as a user would: in processes of their own."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main
from gru_jax.training import read_metrics

REPOSITORY = Path(__file__).parents[2]
STEPS = 80


@pytest.fixture
def config(adding, write_config):
    training = {"steps": STEPS, "batch_size": 8, "eval_every": 4, "log_every": 3}
    return write_config({**adding, "training": training})


def start(config, run, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "train", str(config), "--run-dir", run, *options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


def rows(run):
    path = run / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_for_rows(process, run, number):
    deadline = time.monotonic() + 300
    while rows(run) < number and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(config, workplace):
    unbroken = start(config, "unbroken")
    killed = 0
    # Not seeded: every time the test is run, the kills fall on other steps.
    for number in sorted(random.sample(range(1, 40), 3)):
        process = start(config, "killed")
        wait_for_rows(process, workplace / "killed", number)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed
    finish(unbroken)
    out = finish(start(config, "killed"))
    assert "GRU, 4 units" in out
    first, second = (workplace / name / "summary.json" for name in ("unbroken", "killed"))
    assert first.read_bytes() == second.read_bytes()
    meta = json.loads((workplace / "killed" / "meta.json").read_text())
    assert len(meta["earlier_sessions"]) == 3
    metrics = read_metrics(workplace / "killed" / "metrics.jsonl")
    steps = [(row["split"], row["step"]) for row in metrics]
    assert len(steps) == len(set(steps))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_resume(config, workplace, number, code):
    process = start(config, "stopped", "--training.steps", str(10**6))
    wait_for_rows(process, workplace / "stopped", 3)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "python -m experiments train stopped/config.yaml --run-dir stopped" in err
    saved = max(int(path.name) for path in (workplace / "stopped" / "checkpoints").glob("[0-9]*"))
    written = (workplace / "stopped" / "metrics.jsonl").read_text().splitlines()
    assert saved >= json.loads(written[-1])["step"]
    assert not (workplace / "stopped" / "summary.json").exists()


# Functions that are called before a file or directory is changed: an audit hook stays for ever.
auditors = []


@pytest.fixture
def before_each_change():
    """Registers a function to be called before each change of a file or directory."""

    def audit(event, arguments):
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if auditors and (changes or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            function = auditors.pop()
            function()
            auditors.append(function)

    sys.addaudithook(audit)
    yield auditors.append
    auditors.clear()


@pytest.mark.slow
def test_a_kill_before_any_change_of_a_file_leaves_a_directory_that_resumes(
    adding, write_config, workplace, before_each_change
):
    """Start-up included: states of the directory are resumed from a copy of it."""
    adding["training"]["steps"] = 1
    config, states = write_config(adding), {}

    def copy_state():
        names = sorted(str(path.relative_to("run")) for path in Path("run").rglob("*"))
        # States that differ only in the names of temporary files are equal.
        key = tuple(re.sub(r"[0-9a-f]{8,}|tmp\w+", "", name) for name in names)
        if Path("run").exists() and key not in states:
            state = f"state-{len(states)}"
            try:
                shutil.copytree("run", state)
            except (OSError, shutil.Error):
                # Another thread changed files meanwhile: not what a kill leaves at one moment.
                shutil.rmtree(state, ignore_errors=True)
            else:
                states[key] = state

    before_each_change(copy_state)
    assert main(["train", str(config), "--run-dir", "run"]) == 0
    auditors.clear()
    assert len(states) > 20
    expected = Path("run", "summary.json").read_bytes()
    # Not seeded: every time the test is run, these are others.
    for name in random.sample([*states.values()], 10):
        assert main(["train", str(config), "--run-dir", name]) == 0, name
        assert Path(name, "summary.json").read_bytes() == expected
        assert not list(Path(name).rglob("*.partial"))
