"""Options of `sweep`, parsed before JAX is imported."""

import dataclasses
from pathlib import Path
from typing import Annotated, Generic, Literal

import tyro

from experiments import program
from experiments.command_help import described
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.runs.cli_options import Config, Parsed, parse_options
from experiments.runs.search_space import check_space

PROGRAM = f"{program.PROGRAM} sweep"
USAGE = described(
    "sweep digits --trials 20",
    "Trains the experiment of CONFIG, a YAML file or a config of the project by its name, with "
    "values from the ranges under its key `sweep`, and writes the best as a config. Where every "
    "key has choices, that is the whole grid.",
)


@dataclasses.dataclass(frozen=True)
class SweepOptions(Generic[Config]):
    """Options of `sweep`."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    trials: int = 20
    """Total number of trials, including those of earlier calls. Where every key of `sweep` has
    choices, each point of the grid is one trial, and this option has no effect."""
    output: Path | None = None
    """Directory of the study, its runs and the best config; the default is runs/sweep/NAME. A
    study in it is resumed. Without --storage a second process on it is an error."""
    storage: str | None = None
    """URL of a database for Optuna, such as sqlite:////shared/study.db or
    postgresql://user@host/database. Any number of processes with the same --storage and --output,
    on one machine or many, work on one study. What a killed one was training another takes up. The
    URL is recorded: leave the password to the driver, as in ~/.pgpass."""
    workers: int | Literal["auto"] = 1
    """Number of processes on this machine that work on the study in --storage, each on a GPU of its
    own as far as there are several. With auto it is the number of devices."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def parse(arguments: list[str]) -> Parsed[SweepOptions] | None:
    """Returns the options, or None if --help was printed.

    Raises:
        UserError, SystemExit: as :func:`experiments.runs.cli_options.parse_options`.
    """
    parsed = parse_options(SweepOptions, arguments, PROGRAM, USAGE)
    if parsed is None:
        return None
    check_space(parsed.options.config, parsed.path)
    if parsed.options.trials < 1:
        raise UserError(f"--trials is {parsed.options.trials}, but should be 1 or more.")
    workers = parsed.options.workers
    if workers != "auto" and workers < 1:
        raise UserError(f"--workers is {workers}, but should be 1 or more.")
    if workers != 1 and parsed.options.storage is None:
        raise UserError(
            f"--workers {workers} needs --storage, the study that they share, such as "
            f"sqlite:///{parsed.path.stem}.db."
        )
    return parsed
