"""The wheel: what is in it, and its command in an environment outside the clone."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.docs.pages import own_task_files

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The programs of a new environment with the wheel, and this environment's dependencies."""
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = str(programs / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    # Only paths: what is installed as editable here, gru_jax itself, is not there.
    ours = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    Path(packages.stdout.strip(), "dependencies.pth").write_text(ours)
    return programs


@pytest.fixture(scope="module")
def run(programs):
    """A function that runs a program of that environment, outside the clone, and returns stdout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["JAX_PLATFORMS"] = "cpu"

    def run(program, *arguments):
        command = [programs / program, *arguments]
        done = subprocess.run(
            command, cwd=programs.parents[1], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_two_packages_and_no_results(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gru_jax", "gru_jax_experiments"}
    configs = {Path(name).name for name in names if name.endswith(".yaml")}
    assert configs == {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert not [name for name in names if name.endswith((".png", ".pyc"))]
    assert wheel.stat().st_size < 1e6


def test_the_page_on_an_index_renders(wheel):
    pytest.importorskip("twine")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], check=True)


def test_the_installed_command_trains_reports_and_exports(run, programs):
    place = run("python", "-c", "import gru_jax; print(gru_jax.__file__)")
    assert Path(place.strip()).is_relative_to(programs.parent)
    train = ("train", "digits", "--training.steps", "2", "--run-dir", "run")
    said = run("gru-jax", *train)
    assert "nearest neighbour" in said
    assert "gru-jax compare digits" in said
    meta = (programs.parents[1] / "run" / "meta.json").read_text()
    assert '"command": "gru-jax train digits' in meta
    assert '"git_revision": "unknown"' in meta
    assert "report.html" in run("gru-jax", "report", "run")
    assert "safetensors" in run("gru-jax", "export", "run", "--to", "safetensors")


def test_the_installed_command_trains_a_task_of_ones_own(run, programs):
    folder = programs.parents[1]
    for name, content in own_task_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    train = ("train", "my.yaml", "--training.steps", "2", "--run-dir", "own")
    assert "last bit" in run("gru-jax", *train)
    assert "model.zip" in run("gru-jax", "export", "own", "--to", "stablehlo")
    # Where no command is running, such as in the user's tests.
    code = "from gru_jax_experiments import Task; import my_package.my_task; print(Task)"
    assert "experiments.task.Task" in run("python", "-c", code)


def test_python_m_gru_jax_is_the_same_command(run):
    assert "usage: python -m gru_jax COMMAND" in run("python", "-m", "gru_jax", "--help")


def test_experiments_are_no_package_of_the_environment(run):
    found = "import importlib.util; print(importlib.util.find_spec('experiments'))"
    assert run("python", "-c", found) == "None\n"
