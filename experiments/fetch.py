"""The command `fetch NAME`: downloads a data set and checks it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from experiments import data


@dataclass(frozen=True)
class _Arguments:
    name: tyro.conf.Positional[Literal["jsb", "nottingham"]]
    """The data set."""
    data_dir: Path = field(default_factory=data.default_data_dir)
    """Directory it goes to; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code. Raises UserError as `data.fetch` does."""
    chosen = tyro.cli(
        _Arguments,
        args=arguments,
        prog="python -m experiments fetch",
        description="Downloads a data set, checks its SHA-256 and puts it where the tasks look.",
    )
    print(f"{data.fetch(data.DATA_FILES[chosen.name], chosen.data_dir)} is there and verified.")
    return 0
