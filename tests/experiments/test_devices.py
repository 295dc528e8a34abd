"""Runs on several devices and as several processes."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from gru_jax import training
from tests.experiments.two_processes import ends, start_two
from tests.slow import slow


def summary(run):
    return json.loads(Path(run, "summary.json").read_text())


def losses(run):
    rows = training.read_metrics(Path(run, "metrics.jsonl"))
    return [row["loss"] for row in rows if row["split"] == "train"]


TASKS = {
    "adding": {},
    "copy": {"task": "copy", "length": 3, "held_out": 16},
    "language": {"task": "language", "data_file": "text.txt", "window": 5, "sample": 5},
}


@pytest.mark.parametrize("task", ["adding", slow("copy"), slow("language")])
def test_a_mesh_changes_nothing_but_the_devices(adding, write_config, task):
    Path("text.txt").write_text("to be or not to be, that is the question. " * 500)
    values = {name: adding[name] for name in ("model", "optimizer", "training")}
    config = str(write_config({**(adding if task == "adding" else values), **TASKS[task]}))
    assert main(["train", config, "--run-dir", "one"]) == 0
    assert main(["train", config, "--run-dir", "two", "--mesh", "data=2"]) == 0
    np.testing.assert_allclose(losses("two"), losses("one"), rtol=1e-5)
    one, two = summary("one"), summary("two")
    for split in ("validation", "test"):
        for name, value in one.pop(split).items():
            assert two[split][name] == pytest.approx(value, rel=1e-4)
        del two[split]
    assert two == one


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mesh", "data=3"], "training.batch_size is 8, but should be a multiple of 3"),
        (["--mesh", "data=8"], "--mesh needs 8 devices, but there are 4 (cpu)"),
        (["--mesh", "seed=2"], "--mesh is 'seed=2', but should give a number of devices for data"),
        (["--mesh", "data"], "such as data=2"),
        (["--coordinator", "host:1"], "--coordinator needs --distributed"),
        (["--distributed"], "--distributed needs --run-dir"),
        (
            ["--distributed", "--run-dir", "r", "--num-processes", "2", "--process-id", "2"],
            "--process-id is 2, but should be from 0 to 1",
        ),
        (
            ["--distributed", "--run-dir", "r", "--coordinator", "host"],
            "--coordinator is 'host', but should be HOST:PORT",
        ),
    ],
)
def test_what_does_not_fit_is_rejected(adding, write_config, user_error, options, expected):
    assert expected in user_error("train", write_config(adding), *options)


@pytest.mark.parametrize("mesh", ["seed=2", slow("data=2"), slow("data=1,seed=2")])
def test_compare_spreads_seeds_over_devices(adding, write_config, mesh):
    config = str(write_config(adding))
    for output, options in {"one": [], "two": ["--mesh", mesh]}.items():
        command = ["compare", config, "--cells", "gru", "--seeds", "2", "--output", output]
        assert main([*command, *options]) == 0
    for seed in ("s0", "s1"):
        one, two = (losses(f"{output}/gru/{seed}") for output in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
        assert json.loads(Path(f"two/gru/{seed}/meta.json").read_text())["vmapped_seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mesh", "seed=2", "--seeds", "3"], "--seeds is 3, but should be a multiple of 2"),
        (["--mesh", "seed=2", "--seeds", "2", "--training.patience", "1"], "training.patience"),
        (["--mesh", "data=3"], "training.batch_size is 8, but should be a multiple of 3"),
        (
            ["--mesh", "seed=2", "--seeds", "2", "--vmap-seeds", "False"],
            "cannot be given with --vmap-seeds False",
        ),
    ],
)
def test_compare_rejects_what_does_not_fit(adding, write_config, user_error, options, expected):
    assert expected in user_error("compare", write_config(adding), *options)


@pytest.mark.slow
def test_two_processes_write_one_run(adding, write_config):
    adding["training"] = {**adding["training"], "steps": 400, "eval_every": 100, "log_every": 50}
    # Four devices divide 16 of them.
    adding["held_out"] = 19
    config = write_config(adding)
    processes = start_two(config, "--run-dir", "two")
    log = Path("two", "metrics.jsonl")
    while not (log.exists() and "validation" in log.read_text()):
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, second = ends(processes)
    assert [first[2], second[2]] == [143, 143]
    assert "Stopped by SIGTERM. To resume: " in first[1]
    assert "with --distributed in each process" in first[1]
    assert "Stopped" not in second[1]
    assert [end[2] for end in ends(start_two(config, "--run-dir", "two"))] == [0, 0]
    assert main(["train", str(config), "--run-dir", "one"]) == 0
    np.testing.assert_allclose(losses("two"), losses("one"), rtol=1e-3)
    for split in ("validation", "test"):
        assert summary("two")[split] == pytest.approx(summary("one")[split], rel=1e-3)
    assert len(json.loads(Path("two/meta.json").read_text())["earlier_sessions"]) == 1


@pytest.mark.slow
def test_what_process_0_rejects_ends_both(adding, write_config):
    config = write_config(adding)
    assert main(["train", str(config), "--run-dir", "used"]) == 0
    first, second = ends(start_two(config, "--run-dir", "used", "--seed", "7"))
    assert [first[2], second[2]] == [2, 2]
    assert "used holds another experiment" in first[1]
    assert "Process 0 ended with an error." in second[1]
