"""Tasks from outside: the page's example through all commands, and messages for wrong modules."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from experiments.tasks.outside import is_outside
from gru_jax import training
from tests.docs.pages import ROOT, own_task_files
from tests.experiments.conftest import TINY

CONFIG = "class Config(gru_jax_experiments.ExperimentConfig, frozen=True):\n    'A task.'\n"
IMPORT = "import gru_jax_experiments\n"
BUILD = "def build(config, data_dir):\n    return None\n"
# Runs a command, and says whether JAX was imported.
WITHOUT_JAX = """
import sys
from experiments.cli import main
main(sys.argv[1:])
print("jax" in sys.modules)
"""


@pytest.fixture
def folder(workplace, monkeypatch):
    """The working directory, from which modules are forgotten after the test."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    # Files next to a module would be what a rejected command has written.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield workplace
    for name in set(sys.modules) - before:
        if name.startswith(("my_package", "my_task")):
            del sys.modules[name]


@pytest.fixture
def write_module(folder, write_config):
    """Writes the module of a task, and a config for it, whose path is returned."""

    def write(code, **values):
        (folder / "my_package").mkdir(exist_ok=True)
        (folder / "my_package" / "my_task.py").write_text(code)
        return write_config({"task": "my_package.my_task", **values})

    return write


@pytest.fixture
def example(folder):
    """The files of the page, with a config of a few steps."""
    for name, content in own_task_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    config = yaml.safe_load((folder / "my.yaml").read_text())
    config["training"] = TINY["training"]
    config["model"] = {"hidden_size": 4}
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    return folder


def rows(run):
    return [
        {name: row[name] for name in row if name not in ("seconds", "steps_per_second")}
        for row in training.read_metrics(run / "metrics.jsonl")
    ]


def test_the_example_is_short():
    module = own_task_files()["my_package/my_task.py"]
    assert len(module.splitlines()) <= 80


def test_the_example_trains_resumes_and_exports(example, capsys, monkeypatch):
    whole = ["train", "my.yaml", "--length", "7", "--optimizer.b1", "0.9"]
    assert main([*whole, "--run-dir", "whole"]) == 0
    assert "last bit" in capsys.readouterr().out
    assert yaml.safe_load((example / "whole" / "config.yaml").read_text())["length"] == 7

    import my_package.my_task as module

    sample = module.sample

    def sample_or_fail(config, number, seed):
        if seed == (0, 0, 4):
            raise OSError("interrupted")
        return sample(config, number, seed)

    monkeypatch.setattr(module, "sample", sample_or_fail)
    assert main([*whole, "--run-dir", "halves"]) == 1
    monkeypatch.setattr(module, "sample", sample)
    assert main(["train", "halves/config.yaml", "--run-dir", "halves", "--resume", "must"]) == 0
    assert rows(example / "halves") == rows(example / "whole")
    summaries = [json.loads(Path(run, "summary.json").read_text()) for run in ("whole", "halves")]
    assert summaries[0] == summaries[1]

    pytest.importorskip("safetensors")
    assert main(["export", "whole", "--to", "safetensors"]) == 0
    assert (example / "whole" / "export" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_example_sweeps_compares_and_reports(example, capsys):
    assert main(["sweep", "my.yaml", "--output", "sweep", "--trials", "2"]) == 0
    options = ["--cells", "gru,rnn", "--seeds", "2", "--output", "compared"]
    assert main(["compare", "my.yaml", *options]) == 0
    assert main(["report", "compared"]) == 0
    assert "my_package.my_task" in Path("compared/report.html").read_text()
    capsys.readouterr()
    assert main(["gradients", "compared"]) == 2
    assert "is a run of my_package.my_task" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_runs_as_a_program_from_another_directory(example):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    program = "import sys; sys.argv[0] = 'gru-jax'; from gru_jax_experiments import main; main()"
    for start in (["-m", "experiments"], ["-P", "-c", program]):
        run = f"run{len(start)}"
        for command in (
            ["train", "my.yaml", "--run-dir", run],
            ["export", run, "--to", "stablehlo"],
        ):
            subprocess.run([sys.executable, *start, *command], cwd=example, env=env, check=True)
        assert (example / run / "export" / "model.zip").is_file()


def test_help_and_wrong_values_are_those_of_the_config(example, user_error, capfd):
    wrong_value = user_error("train", "my.yaml", "--model.dropout", "2")
    assert "--model.dropout is 2.0, but should be less than 1" in wrong_value
    with pytest.raises(SystemExit) as stop:
        main(["train", "my.yaml", "--help"])
    assert stop.value.code == 0
    shown = capfd.readouterr().out
    assert "--length INT (15)" in shown
    assert "--optimizer.b1 (0.95)" in shown


@pytest.mark.parametrize("name", ["a.b", "my_package.tasks.one", "_a.b2"])
def test_paths_of_modules(name):
    assert is_outside(name)


@pytest.mark.parametrize(
    "name", ["a", "a.", ".a", "a..b", "a.b-c", "a/b.c", "../a.b", "a.b:c", "1.a", "a." * 200 + "a"]
)
def test_other_names_are_no_modules(folder, write_config, user_error, name):
    assert not is_outside(name)
    assert "but should be digits, adding" in user_error("train", write_config({"task": name}))


@pytest.mark.parametrize("command", ["train", "sweep", "compare"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", "my_task.py has no Config. The module of a task has Config, a subclass of gru_jax_"),
        (IMPORT + CONFIG.replace("Config(", "Confg("), "Did you mean Confg?"),
        (IMPORT + CONFIG, "my_task.py has no build"),
        (IMPORT + CONFIG + BUILD.replace("build", "biuld"), "Did you mean biuld?"),
        ("Config = 3\nbuild = print", "Config is 3, but should be a subclass of"),
        ("class Config: pass\nbuild = print", "Config is the class Config, but should be a sub"),
        (IMPORT + CONFIG + "build = 3", "build is 3, but should be a function: build takes (con"),
        (IMPORT + CONFIG + "def build(config): pass", "build takes (config), but build takes (c"),
        (IMPORT + CONFIG + "def build(a, b, c): pass", "build takes (a, b, c), but build takes"),
        ("\nimport nothing_of_this_name", "my_task.py, line 2: No module named 'nothing_of_this_n"),
        ("from os import nothing", "my_task.py, line 1: cannot import name 'nothing' from 'os'"),
        ("\n\nx = (", "my_task.py, line 3: '(' was never closed"),
        ("def f():\n    1 / 0\nf()", "my_task.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "my_task.py, line 2: SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_a_module(write_module, user_error, command, code, expected):
    path = write_module(code)
    message = user_error(command, path)
    assert message.startswith(f"{path}: task is my_package.my_task. ")
    assert expected in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("my_packag.my_task", "no module my_packag in the working directory {}"),
        ("my_packag.my_task", "Did you mean my_package?"),
        ("my_package.my_tusk", "no module my_package.my_tusk in my_package. Did you mean my_packa"),
        ("my_package.my_task.more", "no module my_package.my_task.more in my_package.my_task"),
    ],
)
def test_a_module_that_is_absent(write_module, write_config, user_error, folder, task, expected):
    write_module("")
    message = user_error("train", write_config({"task": task}))
    assert expected.format(folder) in message


def test_a_build_that_returns_something_else(write_module, capsys):
    path = write_module(IMPORT + CONFIG + BUILD)
    assert main(["train", str(path)]) == 2
    assert "build of my_package.my_task returned NoneType, but should" in capsys.readouterr().err


def test_an_import_that_fails_in_build(write_module, capsys):
    path = write_module(IMPORT + CONFIG + "def build(config, data_dir):\n    import no_such_thing")
    assert main(["train", str(path)]) == 2
    message = capsys.readouterr().err
    assert "build of my_package.my_task cannot import: " in message
    assert "my_task.py, line 5: No module named 'no_such_thing'" in message
    assert not Path("runs").exists()


def test_a_config_without_jax_is_checked_before_jax_is_imported(write_module, folder):
    config = CONFIG + "    length: int = 3\n"
    path = write_module(IMPORT + config + BUILD, length="4")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, "train", str(path)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "length is '4', but should be an integer" in done.stderr
    assert done.stdout == "False\n"


def test_an_installed_package_precedes_the_working_directory(write_module, folder, capsys):
    """A file `json.py` in the working directory must not replace a module that others import."""
    (folder / "json").mkdir()
    (folder / "json" / "decoder.py").write_text("raise RuntimeError")
    path = folder / "other.yaml"
    path.write_text("task: json.decoder")
    assert main(["train", str(path)]) == 2
    assert "decoder.py has no Config" in capsys.readouterr().err
