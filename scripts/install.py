"""Installs the project with one of its extras, and says how far it is: `make` runs this."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from experiments import status  # noqa: E402  # needs nothing installed

LAST_LINES = 30


def main(extra: str) -> int:
    """Installs into the environment that runs this; returns pip's exit code."""
    status.turn_on()
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--editable", f".[{extra}]"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    lines, collected = [], 0
    with status.doing(f"Installing {len(requirements(extra))} packages and what they need") as say:
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"Collecting ([\w.-]+)", line):
                collected += 1
                say(f"Downloading package {collected}, {found[1]}")
            elif line.startswith("Installing collected packages:"):
                say(f"Unpacking {line.count(',') + 1} packages")
    code = process.wait()
    if code:
        print("".join(lines[-LAST_LINES:]), end="", file=sys.stderr)
    return code


def requirements(extra: str) -> set[str]:
    """Returns the names of the packages that the project and an extra ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, extras = set(project["dependencies"]), [extra]
    for each in extras:
        for requirement in project["optional-dependencies"][each]:
            if own := re.match(rf"{project['name']}\[(.*)\]", requirement):
                extras += own[1].split(",")
            else:
                found.add(requirement)
    return {re.split("[^A-Za-z0-9_.-]", requirement)[0] for requirement in found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
