"""How this process was started, for messages and records that name a command."""

import shlex
import shutil
import sys
from pathlib import Path


def _program() -> str:
    started = Path(sys.argv[0])
    if started.stem == "gru-jax":
        return "gru-jax"
    return "python -m gru_jax" if started.parent.name == "gru_jax" else "python -m experiments"


PROGRAM = _program()
"""The command line before the command: `gru-jax`, or `python -m` with a package."""


def typed() -> str:
    """Returns PROGRAM as it works in the user's shell, in which no environment may be active."""
    name, *rest = PROGRAM.split()
    started = Path(sys.executable if name == "python" else sys.argv[0])
    found = shutil.which(name)
    if found is not None and Path(found).absolute() == started.absolute():
        return PROGRAM
    if started.is_absolute() and started.is_relative_to(Path.cwd()):
        started = started.relative_to(Path.cwd())
    return " ".join([shlex.quote(str(started)), *rest])
