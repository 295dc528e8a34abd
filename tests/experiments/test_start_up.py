"""What is told before anything is imported, downloaded, allocated or written."""

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jax
import optax
import pytest

from experiments import cli
from experiments.cli import main
from experiments.config import OPTIMIZER_OPTIONS, Cell, ModelConfig
from experiments.models.recurrent import build_network
from experiments.runs import memory
from experiments.tasks import TASKS, load_task
from experiments.tasks.configs import CONFIGS
from gru_jax.cells import CELLS
from tests.experiments.conftest import changed

REPOSITORY = Path(__file__).parents[2]
# Runs commands, and writes for each the exit code, the message and the large imports so far.
IMPORTED = """
import contextlib, io, json, sys
from experiments.cli import main

found = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as message:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    loaded = sorted({"jax", "flax", "numpy", "matplotlib"} & sys.modules.keys())
    found.append([code, message.getvalue(), loaded])
print(json.dumps(found))
"""


def test_configs_and_options_are_checked_before_jax_is_imported(adding, write_config):
    commands, expected = [], []
    for index, wrong in enumerate(["sede: 1", "model: {cell: gur}", "task: [", "length: -1"]):
        commands.append([str(write_config(f"task: adding\n{wrong}\n", f"wrong-{index}.yaml"))])
        expected.append(commands[-1][0])
    adding["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    right = str(write_config(adding))
    for options in (
        ["--trainig.steps", "5"],
        ["--training.steps", "0"],
        ["--training.steps", "9" * 5000],
        ["--model.hidden-size", "9" * 50],
    ):
        commands.append([right, *options])
        expected.append("")
    commands = [[name, *each] for name in ("train", "sweep", "compare") for each in commands]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for command, start, (code, message, loaded) in zip(
        commands, expected * 3, json.loads(done.stdout), strict=True
    ):
        assert (code, loaded) == (2, []), command
        assert message.startswith(start)
        assert 0 < len(message) < 3000
        assert "Traceback" not in message


@pytest.mark.parametrize("command", ["train", "sweep", "compare"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"sweep": {"model.hiden_size": {"choices": [2]}}}, "sweep: unknown key model.hiden_size"),
        ({"sweep": {"model.dropout": {"low": 0.5, "high": 2.0}}}, "sweep: model.dropout is 2.0"),
        ({"cells": {"lstm": {"model.hiden": 2}}}, "cells.lstm: unknown key model.hiden"),
        ({"cells": {"rnn": {"model.dropout": 2.0}}}, "cells.rnn: model.dropout is 2.0"),
    ],
)
def test_values_of_sweep_and_compare_are_checked_by_every_command(
    adding, write_config, user_error, command, wrong, expected
):
    path = write_config({**adding, **wrong})
    assert user_error(command, path).startswith(f"{path}: {expected}")


def test_the_cells_of_configs_are_those_of_the_library():
    assert get_args(Cell) == tuple(CELLS)


@pytest.mark.parametrize("task", TASKS)
def test_the_config_of_a_task_is_that_of_its_module(task):
    assert load_task(task).Config is CONFIGS[task]
    assert CONFIGS[task].model_fields["task"].default == task


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CONFIG", "--run-dir", "https://bucket/run"],
        ["train", "CONFIG", "--run-dir=s3://bucket/run"],
        ["train", "CONFIG", "--data-dir", "https://example.com/data"],
        ["train", "gs://bucket/adding.yaml"],
        ["sweep", "CONFIG", "--output", "hdfs://host/run"],
        ["compare", "CONFIG", "--output", "gs://bucket/run"],
        ["export", "s3://bucket/run", "--to", "onnx"],
        ["export", "run", "--to", "onnx", "--output", "gs://bucket/run"],
        ["predict", "run", "gs://bucket/data.csv", "-o", "out.csv"],
        ["report", "s3://bucket", "--out", "page.html"],
        ["compare", "CONFIG", "--from", "s3://bucket/run"],
        ["gradients", "hdfs://bucket/run"],
        ["bench", "--output", "gs://bucket/run"],
        ["interop", "--output", "gs://bucket/run"],
        ["fetch", "jsb", "--data-dir", "gs://bucket"],
    ],
)
def test_urls_are_rejected_by_name(adding, write_config, user_error, arguments):
    config = write_config(adding)
    message = user_error(*(str(config) if text == "CONFIG" else text for text in arguments))
    assert "is a URL" in message
    assert "://" in message


@pytest.mark.parametrize("task", ["music", "language", "forecasting"])
@pytest.mark.parametrize("as_option", [False, True])
def test_a_url_as_data_file(write_config, user_error, task, as_option):
    values, options = {"task": task}, []
    if as_option:
        options = ["--data-file=s3://bucket/data"]
    else:
        values["data_file"] = "s3://bucket/data"
    assert "s3://bucket/data is a URL" in user_error("train", write_config(values), *options)


@pytest.mark.parametrize("command", ["train", "sweep", "compare"])
def test_a_url_as_data_directory_of_the_environment(
    adding, write_config, user_error, monkeypatch, command
):
    monkeypatch.setenv("GRU_JAX_DATA", "gs://bucket/data")
    adding["sweep"] = {"model.hidden_size": {"choices": [2, 3]}}
    assert "gs://bucket/data is a URL" in user_error(command, write_config(adding))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_missing_package_names_the_extra(monkeypatch, capsys, command):
    def missing(name):
        raise ModuleNotFoundError("No module named 'tyro.conf'", name="tyro.conf")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert main([command, "configs/adding.yaml"]) == 2
    message = capsys.readouterr().err
    extras = {
        "bench": "bench",
        "init": "data",
        "interop": "interop,experiments",
        "predict": "data",
    }
    extra = extras.get(command, "experiments")
    assert message == (
        f"{command} needs tyro, which is not installed. In a clone: pip install -e '.[{extra}]'. "
        f"From an index: pip install 'gru-jax[{extra}]'.\n"
    )


def test_a_missing_module_of_our_own_is_an_error(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'gru_jax.nothing'", name="gru_jax.nothing")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["report"])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.hidden_size", 10_000_000, "4,470,348.4 GiB for weights, gradients and optimizer"),
        ("training.batch_size", 10**9, "1,192.1 GiB for the states of a batch"),
        ("length", 2**31 - 1, "4,096.0 GiB for the states of a batch"),
        ("held_out", 2**31 - 1, "160.0 GiB for generated data"),
        ("train_sequences", 10**9, "37.3 GiB for generated data"),
    ],
)
@pytest.mark.parametrize("as_option", [False, True])
def test_memory_is_estimated_first(
    adding, write_config, user_error, monkeypatch, key, value, expected, as_option
):
    monkeypatch.setattr(memory, "machine_memory", lambda: 32 * 2**30)
    adding["model"]["hidden_size"] = 64
    if as_option:
        options = [f"--{key.replace('_', '-')}", str(value)]
    else:
        adding, options = changed(adding, key, value), []
    message = user_error("train", write_config(adding), *options)
    assert expected in message
    assert message.startswith("This machine has 32.0 GiB of memory")


@pytest.mark.parametrize(
    ("cell", "num_layers", "bidirectional"),
    [("gru", 3, True), ("gru", 1, False), ("lstm", 1, True), ("rnn", 2, False)],
)
def test_the_estimate_counts_the_weights_between_units(cell, num_layers, bidirectional):
    model = ModelConfig(
        cell=cell, num_layers=num_layers, bidirectional=bidirectional, hidden_size=7
    )
    network = jax.eval_shape(
        lambda: build_network(model, 1, 1, readout="every step", seed=0).params
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(network) if leaf.ndim == 2]
    between_units = sum(a * b for a, b in shapes if a > 1 and b > 1)
    assert memory.num_weights(model) == between_units


def test_the_memory_of_a_machine_with_an_accelerator_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "ACCELERATORS", (str(tmp_path / "absent"),))
    assert (memory.machine_memory() or 0) > 2**30
    monkeypatch.setattr(memory, "ACCELERATORS", (str(tmp_path / "absent"), str(tmp_path)))
    assert memory.machine_memory() is None


def test_the_estimate_knows_all_cells_and_optimisers():
    assert set(memory.COPIES) == set(OPTIMIZER_OPTIONS)
    assert set(memory.GATES) == set(get_args(Cell))


@pytest.mark.parametrize("name", OPTIMIZER_OPTIONS)
def test_the_known_options_of_optimisers_are_those_of_optax(name):
    fields = {"learning_rate", "weight_decay", "mask"}
    parameters = inspect.signature(getattr(optax, name)).parameters
    assert set(parameters) - fields == set(OPTIMIZER_OPTIONS[name])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.64 TiB for an array"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nMore"),
    ],
)
def test_exhausted_memory_is_one_message(monkeypatch, capsys, error):
    def exhausted(arguments):
        raise error

    monkeypatch.setattr("experiments.report.main", exhausted)
    assert main(["report"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("The memory is exhausted: ")
    assert message.count("\n") == 1


def test_a_file_that_cannot_be_written_is_one_message(monkeypatch, capsys):
    def full(arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "out/page.html")

    monkeypatch.setattr("experiments.report.main", full)
    assert main(["report"]) == 1
    assert capsys.readouterr().err == "out/page.html: No space left on device.\n"


def test_a_reader_who_has_seen_enough_is_no_error():
    """As in `... | head -1`: the pipe is closed before everything is written."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "experiments", "--help"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (1, "")
