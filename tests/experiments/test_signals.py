"""Signals at any moment: obeyed, without a traceback, and the run can be resumed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TRIALS = int(os.environ.get("GRU_JAX_SIGNAL_TRIALS", "20"))

# A call into C that keeps the main thread waiting, as a compilation does.
BUSY = """
import hashlib
from experiments import stop

stop.watch()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
# A signal during a function that C code calls, where an exception is printed and ignored.
CALLED_BY_C = """
import os, signal, time
from experiments import stop

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)

stop.watch()
dying = Dying()
del dying
stop.check()
"""


def python(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def train(config, run):
    return python("-m", "experiments", "train", config, "--run-dir", run, cwd=config.parent)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_the_second_signal_ends_the_process_at_once(number):
    process = python("-c", BUSY)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    begun = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODES[number]
    assert time.monotonic() - begun < 20
    assert error == ""


def test_a_signal_is_not_lost_where_an_exception_would_be():
    process = python("-c", CALLED_BY_C)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.splitlines()[-1] == "experiments.stop.Stopped: SIGINT"
    assert "ignored" not in error


def test_a_signal_during_start_up_leaves_nothing(adding, write_config, workplace):
    config = write_config(adding)
    process = train(config, "run")
    time.sleep(0.6)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert "Traceback" not in error
    if process.returncode == 143:
        assert "Stopped by SIGTERM." in error
        assert not list((workplace / "run").rglob("*.partial"))


@pytest.mark.slow
def test_signals_at_random_moments(workplace):
    """As many as GRU_JAX_SIGNAL_TRIALS says, on the run of `make train`, 0 to 10 s after the start.

    Before the first line of `__main__` Python itself handles signals: those are not counted. Their
    traceback, if there is one, has no file of the repository.
    """
    config = workplace / "digits.yaml"
    config.write_bytes((REPOSITORY / "configs" / "digits.yaml").read_bytes())
    obeyed, early, finished, failures, resumable = 0, 0, 0, [], []
    for trial in range(TRIALS):
        number = random.choice([*EXIT_CODES])
        delay = random.uniform(0, 10)
        process = train(config, f"run-{trial}")
        time.sleep(delay)
        process.send_signal(number)
        _, error = process.communicate(timeout=600)
        run = workplace / f"run-{trial}"
        if process.returncode == EXIT_CODES[number] and "Traceback" not in error:
            obeyed += 1
            if run.exists():
                resumable.append(run)
        elif process.returncode == 0:
            finished += 1
        elif str(REPOSITORY) not in error and not run.exists():
            early += 1
        else:
            failures.append((number.name, delay, process.returncode, error[-500:]))
    print(f"{TRIALS} signals: {obeyed} obeyed, {early} before the first line, {finished} finished")
    assert failures == []
    assert obeyed + early == TRIALS
    for run in resumable:
        assert {path.name for path in run.iterdir()} == set() or (run / "config.yaml").exists()
    # Resuming takes long: once for a directory of each kind.
    kinds = {tuple(sorted(path.name for path in run.iterdir())): run for run in resumable}
    for run in kinds.values():
        process = train(config, run.name)
        time.sleep(25)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=600)
        assert process.returncode in (0, 143)
        assert "Traceback" not in error
