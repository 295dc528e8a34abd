"""What is told before anything is imported, downloaded, allocated or written."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from experiments import cli
from experiments.cli import main
from experiments.config import Cell, ModelConfig, OptimizerConfig
from experiments.runs import memory
from experiments.tasks import TASKS, load_task
from experiments.tasks.configs import CONFIGS
from gru_jax.cells import CELLS

REPOSITORY = Path(__file__).parents[2]
IMPORTED = """
import sys
from experiments.cli import main

code = main(sys.argv[1:])
print(code, sorted({"jax", "flax", "numpy", "matplotlib"} & sys.modules.keys()))
"""


def imported_by(*arguments):
    """Runs a command in a process; returns its exit code and large imports, and its message."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("command", ["train", "sweep", "compare"])
@pytest.mark.parametrize("wrong", ["sede: 1", "model: {cell: gur}", "task: [", "length: -1"])
def test_a_config_is_checked_before_jax_is_imported(write_config, command, wrong):
    path = write_config(f"task: adding\n{wrong}\n")
    printed, error = imported_by(command, path)
    assert printed == "2 []"
    assert error.startswith(str(path))


def test_the_cells_of_configs_are_those_of_the_library():
    assert get_args(Cell) == tuple(CELLS)


@pytest.mark.parametrize("task", TASKS)
def test_the_config_of_a_task_is_that_of_its_module(task):
    assert load_task(task).Config is CONFIGS[task]
    assert CONFIGS[task].model_fields["task"].default == task


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CONFIG", "--run-dir", "gs://bucket/run"],
        ["train", "CONFIG", "--run-dir=s3://bucket/run"],
        ["train", "CONFIG", "--data-dir", "https://example.com/data"],
        ["train", "gs://bucket/adding.yaml"],
        ["sweep", "CONFIG", "--output", "hdfs://host/run"],
        ["compare", "CONFIG", "--output", "gs://bucket/run"],
        ["export", "gs://bucket/run", "--to", "onnx"],
        ["report", "s3://bucket", "--out", "page.html"],
        ["fetch", "jsb", "--data-dir", "gs://bucket"],
    ],
)
def test_urls_are_refused_by_name(adding, write_config, refused, arguments):
    config = write_config(adding)
    message = refused(*(str(config) if text == "CONFIG" else text for text in arguments))
    assert "is a URL" in message
    assert "://" in message


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_missing_package_names_the_extra(monkeypatch, capsys, command):
    def missing(name):
        raise ModuleNotFoundError("No module named 'tyro.conf'", name="tyro.conf")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert main([command, "configs/adding.yaml"]) == 2
    message = capsys.readouterr().err
    extra = {"bench": "bench", "interop": "interop"}.get(command, "experiments")
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
    ("options", "expected"),
    [
        (["--model.hidden-size", "10000000"], "at least 1,490,116.1 GiB for recurrent weights"),
        (["--training.batch-size", "1000000000"], "238.4 GiB for the states of a step"),
    ],
)
def test_memory_is_estimated_first(adding, write_config, refused, monkeypatch, options, expected):
    monkeypatch.setattr(memory, "_machine_memory", lambda: 64 * 2**30)
    adding["model"] = {"hidden_size": 64}
    message = refused("train", write_config(adding), *options)
    assert expected in message
    assert "this machine has 64.0 GiB" in message


def test_the_estimate_knows_all_optimisers():
    assert set(memory.COPIES) == set(get_args(OptimizerConfig.model_fields["name"].annotation))
    assert ModelConfig.model_fields["cell"].annotation is Cell
