"""A directory of runs is held by one process at a time."""

import errno
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.commands.train import command as train
from experiments.errors import UserError
from experiments.runs.directory import RunDirectory
from experiments.runs.lock import LOCK, HeldError, hold
from tests.slow import slow

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from experiments.runs.directory import RunDirectory
from experiments.runs.lock import hold

with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
DEAD = {"pid": 4194305, "host": socket.gethostname(), "since": "2024-05-06T07:08:09+00:00"}


@pytest.fixture
def other_process(workplace):
    """A process that holds the directory `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, "run"],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("command", "option"),
    [slow("train", "--run-dir"), slow("sweep", "--output"), ("compare", "--output")],
)
def test_the_second_process_is_told_who_holds_the_directory(
    adding, write_config, user_error, other_process, command, option
):
    adding["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    message = user_error(command, write_config(adding), option, "run")
    found = re.match(r"run is in use by process (\d+) on the host (\S+), since (\S+)\.", message)
    assert found is not None
    assert found[1] == str(other_process.pid)
    assert found[2] == socket.gethostname()
    assert "another directory" in message


def test_a_run_of_a_comparison_is_held(adding, write_config, capsys, workplace):
    """`compare` does not enter the directory of a run that `train` holds."""
    arguments = ["compare", str(write_config(adding)), "--cells", "gru", "--seeds", "1"]
    with hold(workplace / "out" / "gru" / "s0"):
        assert main([*arguments, "--output", "out"]) == 2
    assert capsys.readouterr().err.startswith("out/gru/s0 is in use by")


def test_the_lock_of_a_killed_process_is_taken_over(workplace, other_process, capsys):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert (workplace / "run" / LOCK).exists()
    with hold(Path("run")):
        assert json.loads((workplace / "run" / LOCK).read_text())["pid"] == os.getpid()
    line = capsys.readouterr().err
    assert line.startswith(f"Took over the lock of run from process {other_process.pid} on")
    assert line.count("\n") == 1
    assert list((workplace / "run").iterdir()) == []


def test_the_lock_of_another_host_is_left(workplace):
    lock = workplace / "run" / LOCK
    lock.parent.mkdir()
    lock.write_text(json.dumps({**DEAD, "host": "elsewhere"}))
    with pytest.raises(HeldError, match=r"the host elsewhere, since 2024.*remove the file .*lock"):
        hold(lock.parent).__enter__()
    assert json.loads(lock.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 900, "\x00" * 5000])
def test_a_corrupted_lock_file_is_taken_over(workplace, content):
    lock = workplace / "run" / LOCK
    lock.parent.mkdir()
    lock.write_text(content)
    with hold(lock.parent):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_directories_that_stay_empty_are_removed(workplace):
    (workplace / "mine").mkdir()
    with hold(Path("mine", "a", "b")):
        assert (workplace / "mine" / "a" / "b").is_dir()
    assert list((workplace / "mine").iterdir()) == []


def test_a_directory_that_cannot_be_made(workplace):
    (workplace / "file").write_text("")
    with pytest.raises(UserError, match="The run directory file/run cannot be written: Not a dir"):
        hold(Path("file", "run")).__enter__()


def test_a_file_system_without_locks(workplace, monkeypatch, capsys):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(Path("run")):
        pass
    assert "The file system of run has no locks" in capsys.readouterr().err


def test_two_new_runs_get_two_directories(adding, write_config, monkeypatch, workplace):
    """Also where both processes chose the same name, in the same second."""
    names = iter(["first", "second"])
    monkeypatch.setattr(
        train, "new_run_directory", lambda name, seed: RunDirectory(Path(next(names)))
    )
    with hold(Path("first")):
        assert main(["train", str(write_config(adding))]) == 0
    assert (workplace / "second" / "summary.json").exists()


@pytest.mark.slow
def test_of_processes_at_the_same_time_one_trains(adding, write_config, workplace):
    """Of two commands that start up to 0.3 s apart, one is rejected."""
    adding["training"]["steps"] = 300
    command = [sys.executable, "-m", "experiments", "train", write_config(adding)]
    processes = []
    for _ in range(2):
        processes.append(
            subprocess.Popen(
                [*command, "--run-dir", "run"],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
                cwd=workplace,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        time.sleep(random.uniform(0, 0.3))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == (2 if "is in use by process" in error else 0), error
    assert [process.returncode for process in processes].count(2) == 1
    rows = [json.loads(row) for row in Path("run/metrics.jsonl").read_text().splitlines()]
    keys = [(row["step"], row["split"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert "earlier_sessions" not in json.loads(Path("run/meta.json").read_text())
