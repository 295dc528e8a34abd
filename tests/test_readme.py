"""Every code block of the README runs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
SHELL = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]


def test_blocks_are_of_known_languages():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


def test_python_blocks_run_one_after_the_other():
    namespace: dict[str, object] = {"__name__": "readme"}
    sources = [block for language, block in BLOCKS if language == "python"]
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
