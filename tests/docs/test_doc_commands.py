"""The commands of README and documentation work on a fresh clone, page by page, in their order."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, ROOT, all_pages, blocks_of, name_of, own_task_files

PAGES = [page for page in all_pages() if any(block.language == "sh" for block in blocks_of(page))]

DRY = ("make test", "make lint", "make docs")
"""Commands of which make shows what it would do: this test is part of what they run."""

HELP_ONLY = (
    "python -m experiments bench",
    "python -m experiments interop",
    "python -m experiments sweep",
    "python -m experiments compare",
)
"""Commands that take minutes: their arguments are looked at, and `--help` is shown."""

NOT_RUN = (
    "GRU_JAX_DATA=",
    ".venv/bin/pre-commit",
    ".venv-tpu/",
    ".venv-gpu/",
    "python -m venv",
    "python -m build",
    "python -m twine",
)
"""Commands that need a network, or an environment of their own."""

TIMEOUT = 600


def commands_of(page):
    lines = [
        line.split(" #")[0].strip()
        for block in blocks_of(page)
        if block.language == "sh"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def in_short(command):
    """A command as the test runs it; None for one that it does not run."""
    if command.startswith(NOT_RUN):
        return None
    if command.startswith(DRY):
        return command.replace("make ", "make --dry-run ", 1)
    if command.startswith(HELP_ONLY):
        return f"{command} --help"
    return command


def test_commands_are_known():
    """Each is one that this file knows how to run."""
    known = (
        "make ",
        "pip install ",
        "source .venv/bin/activate",
        "python ",
        "gru-jax ",
        "JAX_NUM_CPU_DEVICES=",
    )
    for page in PAGES:
        for command in commands_of(page):
            assert command.startswith((*known, *NOT_RUN)), (name_of(page), command)


def test_commands_for_windows_are_those_of_make():
    (block,) = (b for b in blocks_of(DOCS / "faq.md") if b.language == "powershell")
    commands = [shlex.split(line.replace("\\", "/")) for line in block.code.splitlines()]
    assert commands[0] == ["py", "-m", "venv", ".venv"]
    python, *installed = commands[1]
    assert python == ".venv/Scripts/python"
    assert installed == ["-m", "pip", "install", "-e", ".[dev]"]
    assert all(command[0] == python for command in commands[2:])
    made = (ROOT / "Makefile").read_text()
    train, test = (shlex.join(command[1:]) for command in commands[2:])
    assert f"$(BIN)/python {train}\n" in made
    *pytest, selected = shlex.split(test)
    assert f"$(BIN)/python {shlex.join(pytest[:2])} " in made
    assert f'{pytest[2]} "{selected}"\n' in made


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What git would clone, with configs of two steps and an environment that is there already."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    folder = tmp_path_factory.mktemp("clone") / "gru-jax"
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for config in (folder / "configs").glob("*.yaml"):
        short = re.sub(r"\bsteps: \d+", "steps: 2", config.read_text())
        config.write_text(re.sub(r"\bwarmup_steps: \d+", "warmup_steps: 1", short))

    for name, content in own_task_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(re.sub(r"\bsteps: \d+", "steps: 2", content))

    # Stands in for the environment that make sets up, whose packages are those of this one.
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    scripts = {
        "python": f'exec "{sys.executable}" "$@"',
        "gru-jax": f'exec "{sys.executable}" -m gru_jax "$@"',
        "pip": "exit 0",
        "activate": f'export PATH="{programs}:$PATH"',
    }
    for name, code in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    for stamp in ("pyvenv.cfg", ".experiments", ".dev", ".docs"):
        (folder / ".venv" / stamp).touch()
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git") or not shutil.which("make"), reason="git and make")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_work_in_their_order(page, clone):
    """All pages in one clone, one after another."""
    commands = [short for command in commands_of(page) if (short := in_short(command))]
    if (clone / "runs" / "digits").is_dir():
        commands = [command for command in commands if command != "make train"]
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    programs = str(clone / ".venv" / "bin")
    env = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
        "PYTHONPATH": str(clone),
        "JAX_PLATFORMS": "cpu",
    }
    env.pop("GRU_JAX_DATA", None)

    def run(arguments):
        result = subprocess.run(
            arguments, cwd=clone, env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]

    run([bash, "-ec", "set -x\n" + "\n".join(commands)])
    for block in blocks_of(page):
        if block.language == "python" and "runs/" in block.code:
            run([os.path.join(programs, "python"), "-c", block.code])
