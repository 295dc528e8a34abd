"""The command `fetch NAME`: downloads a data set and checks it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments import data
from experiments.download import download
from experiments.errors import UserError
from experiments.suggest import did_you_mean


@dataclass(frozen=True)
class _Arguments:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=", ".join(data.DATA_SETS))]
    data_dir: Path = field(default_factory=data.default_data_dir)
    """Directory it goes to; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        UserError: for a name that is none, and as `download` does.
    """
    chosen = tyro.cli(
        _Arguments,
        args=arguments,
        prog="python -m experiments fetch",
        description="Downloads a data set, checks its SHA-256 and puts it where the tasks look.",
    )
    if chosen.name not in data.DATA_SETS:
        raise UserError(
            f"There is no data set {chosen.name}.{did_you_mean(chosen.name, data.DATA_SETS)} "
            f"The data sets are {', '.join(data.DATA_SETS)}."
        )
    for file in data.DATA_SETS[chosen.name].files:
        print(f"{download(file, chosen.data_dir)} is there and verified.")
    return 0
