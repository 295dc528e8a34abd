"""Every code block of the README runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
TRAINED = "runs/digits"
"""What stands in blocks that train a model, export it and serve it, in this order."""


def lines(block: str) -> list[str]:
    return [line.split("#")[0].strip() for line in block.splitlines()]


SHELL = [
    line
    for language, block in BLOCKS
    if language == "sh" and TRAINED not in block
    for line in lines(block)
]


def test_blocks_are_of_known_languages():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


def test_python_blocks_run_one_after_the_other():
    namespace: dict[str, object] = {"__name__": "readme"}
    sources = [block for language, block in BLOCKS if language == "python" and TRAINED not in block]
    assert sources
    for source in sources:
        exec(compile(source, "README.md", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("line", SHELL)
def test_shell_lines_run(line, tmp_path):
    words = shlex.split(line)
    if words[0] == "make":
        # A dry run: this test is part of what `make test` runs.
        command = [shutil.which("make") or "make", "--dry-run", *words[1:]]
    else:
        assert words[0] == "python", line
        short = ["--training.steps", "2", "--run-dir", str(tmp_path / "run")]
        command = [sys.executable, *words[1:], *([] if "--help" in words else short)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)


@pytest.mark.slow
def test_a_trained_model_is_served(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = [
        shlex.split(line)
        for language, block in BLOCKS
        if language == "sh" and TRAINED in block
        for line in lines(block)
    ]
    assert [words[3] for words in commands] == ["train", "export", "export"]
    for words in commands:
        short = ["--training.steps", "2", "--model.hidden-size", "8"] if words[3] == "train" else []
        subprocess.run(
            [sys.executable, *words[1:], *short],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=300,
        )
    monkeypatch.chdir(tmp_path)
    (serving,) = (block for language, block in BLOCKS if language == "python" and TRAINED in block)
    exec(compile(serving, "README.md", "exec"), {"jax": jax, "jnp": jnp})
