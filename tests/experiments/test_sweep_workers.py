"""`sweep --workers`: several processes on one machine, their devices, signals and deaths."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from experiments.cli import main
from experiments.runs import study_storage, workers
from experiments.runs.study_storage import open_storage
from tests.experiments.two_processes import start

STORAGE = "sqlite:///shared.db"
HEARTBEAT_SECONDS = 3


@pytest.fixture
def swept(adding):
    return {**adding, "sweep": {"model.hidden_size": {"choices": [2, 3, 4]}}}


def trials(output):
    with open_storage(Path(output), STORAGE) as storage:
        return optuna.load_study(study_name=output, storage=storage).get_trials()


def completed(found):
    return {
        trial.params["model.hidden_size"]: trial.value
        for trial in found
        if trial.state == TrialState.COMPLETE
    }


def test_each_worker_has_a_gpu(monkeypatch):
    for name in workers.VISIBLE_DEVICES:
        monkeypatch.delenv(name, raising=False)
    chosen = [workers.environment(index, 4, 2) for index in range(4)]
    assert [each["JAX_CUDA_VISIBLE_DEVICES"] for each in chosen] == ["0", "1", "0", "1"]
    # Two of them share the memory that JAX reserves on a GPU.
    assert {each["XLA_PYTHON_CLIENT_MEM_FRACTION"] for each in chosen} == {"0.375"}
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in workers.environment(1, 2, 2)
    monkeypatch.setenv("JAX_CUDA_VISIBLE_DEVICES", "5,7")
    assert workers.environment(1, 2, 2)["JAX_CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--workers", "2"], "--workers 2 needs --storage"),
        (["--workers", "auto"], "--workers auto needs --storage"),
        (["--workers", "0", "--storage", STORAGE], "--workers is 0, but should be 1 or more"),
    ],
)
def test_what_does_not_fit_is_rejected(swept, write_config, user_error, options, expected):
    assert expected in user_error("sweep", write_config(swept), "--output", "out", *options)


def test_a_tpu_is_not_shared(swept, write_config, user_error, monkeypatch):
    monkeypatch.setattr(workers, "_devices", lambda: ("tpu", 4))
    options = ["--output", "out", "--storage", STORAGE, "--workers", "2"]
    assert "--workers needs CPUs or GPUs" in user_error("sweep", write_config(swept), *options)


@pytest.fixture
def short_heartbeats(monkeypatch):
    """Workers that are taken for dead after some seconds."""
    code = (
        "import sys; from experiments.runs import study_storage;"
        f"study_storage.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS};"
        "from experiments.cli import main; from experiments import stop; stop.watch();"
        "sys.exit(main(sys.argv[1:]))"
    )
    monkeypatch.setattr(study_storage, "HEARTBEAT_SECONDS", HEARTBEAT_SECONDS)
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.slow
def test_a_killed_worker_changes_no_result(swept, write_config, short_heartbeats, capfd):
    swept["training"] = {**swept["training"], "steps": 60, "eval_every": 10}
    config = str(write_config(swept))
    assert main(["sweep", config, "--output", "alone"]) == 0

    def kill_one():
        while not (logs := list(Path("out").glob("trial-*/metrics.jsonl"))):
            time.sleep(0.01)
        holder = json.loads(logs[0].with_name(".lock").read_text())
        os.kill(holder["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    options = ["--output", "out", "--storage", STORAGE, "--workers", "2"]
    assert main(["sweep", config, *options]) == 0
    killer.join()
    assert "A worker ended with -9: see out/worker-" in capfd.readouterr().err
    assert [trial.state for trial in trials("out")].count(TrialState.FAIL) == 1
    with open_storage(Path("alone")) as storage:
        alone = optuna.load_study(study_name="sweep", storage=storage).get_trials()
    assert completed(trials("out")) == completed(alone)


@pytest.mark.slow
def test_a_signal_stops_all_workers(swept, write_config):
    swept["training"] = {**swept["training"], "steps": 100_000}
    options = ["--output", "out", "--storage", STORAGE, "--workers", "2"]
    process = start("sweep", write_config(swept), *options)
    while len(list(Path("out").glob("trial-*/metrics.jsonl"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "Stopped by SIGTERM. To resume: python -m experiments sweep" in errors
    states = [trial.state for trial in trials("out")]
    # Each worker handed its trial on.
    assert states.count(TrialState.FAIL) == 2
    assert TrialState.RUNNING not in states


@pytest.mark.slow
def test_an_error_of_the_input_is_told(swept, write_config, monkeypatch, capfd):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    swept |= {"task": "language", "data_file": "absent.txt"}
    for key in ("length", "held_out"):
        del swept[key]
    options = ["--output", "out", "--storage", STORAGE, "--workers", "2"]
    assert main(["sweep", str(write_config(swept)), *options]) == 2
    assert "absent.txt" in capfd.readouterr().err
