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
TRIALS = int(os.environ.get("GRU_JAX_SIGNAL_TRIALS", "2"))

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


def stop(process, number):
    """Sends a signal and returns the message."""
    process.send_signal(number)
    return process.communicate(timeout=600)[1]


def wait_for_handlers(process):
    """Waits until a process handles SIGTERM, which is the last that it sets up.

    Before that Python itself obeys signals; in a shell's background job it ignores SIGINT.
    """
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        time.sleep(1)
        return
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


def rows(run):
    path = run / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_for_rows(process, run, number):
    while rows(run) < number and process.poll() is None:
        time.sleep(0.01)


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
    process = train(write_config(adding), "run")
    wait_for_handlers(process)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out) == (143, "")
    # On a busy machine it says first what it is doing.
    assert error.removeprefix("Reading the config\n") == "Stopped by SIGTERM.\n"
    assert not (workplace / "run").exists()


@pytest.mark.slow
def test_signals_at_random_moments(workplace):
    """As many as GRU_JAX_SIGNAL_TRIALS says, during start-up and the first half of the steps.

    The run is that of `make train`. Each signal is obeyed, and its directory resumes.
    """
    config = workplace / "digits.yaml"
    config.write_bytes((REPOSITORY / "configs" / "digits.yaml").read_bytes())
    begun = time.monotonic()
    process = train(config, "measured")
    wait_for_rows(process, workplace / "measured", 2)
    # Long enough on slow machines, too.
    longest = max(10.0, 1.5 * (time.monotonic() - begun))
    stop(process, signal.SIGTERM)
    failures, resumable = [], {}
    for trial in range(TRIALS):
        number, delay = random.choice([*EXIT_CODES]), random.uniform(0, longest)
        run = workplace / f"run-{trial}"
        process = train(config, run.name)
        wait_for_handlers(process)
        time.sleep(delay)
        error = stop(process, number)
        if process.returncode != EXIT_CODES[number] or "Traceback" in error:
            failures.append((number.name, delay, process.returncode, error[-2000:]))
        elif run.exists():
            resumable[tuple(sorted(path.name for path in run.iterdir()))] = run
    print(f"{TRIALS - len(failures)} of {TRIALS} signals within {longest:.0f} s were obeyed")
    assert failures == []
    # Once for a directory of each kind.
    for run in resumable.values():
        before = rows(run)
        process = train(config, run.name)
        wait_for_rows(process, run, before + 2)
        error = stop(process, signal.SIGTERM)
        assert process.returncode in (0, 143), error
        assert "Traceback" not in error
