"""How this process was started, for messages and records that name a command."""

import sys
from pathlib import Path


def _program() -> str:
    started = Path(sys.argv[0])
    if started.stem == "gru-jax":
        return "gru-jax"
    return "python -m gru_jax" if started.parent.name == "gru_jax" else "python -m experiments"


PROGRAM = _program()
"""The command line before the command: `gru-jax`, or `python -m` with a package."""
