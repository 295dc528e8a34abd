"""The command `sweep CONFIG`: hyper-parameter search with Optuna in a config's ranges."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Generic

import optuna
import tyro
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from experiments import yaml_files
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs.cli_options import Config, config_file, parse_options
from experiments.runs.config_loading import with_values
from experiments.runs.search import (
    Search,
    check_space,
    directory,
    ended_trials,
    open_study,
    run_trials,
)
from experiments.stop import Stopped
from experiments.tables import number
from gru_jax import training

PROGRAM = "python -m experiments sweep"
USAGE = f"""usage: {PROGRAM} CONFIG [--trials 20 ...]

Trains the experiment of the YAML file CONFIG with values from the ranges under its key `sweep`,
and writes the best as a config. Where every key has choices, that is the whole grid.
`{PROGRAM} CONFIG --help` lists the options."""
NUM_LISTED = 10


@dataclasses.dataclass(frozen=True)
class SweepOptions(Generic[Config]):
    """Options of `sweep`."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    trials: int = 20
    """Total number of trials, including those of earlier calls. Where every key of `sweep` has
    choices, each point of the grid is one trial, and this option has no effect."""
    output: Path | None = None
    """Directory of the study, its runs and the best config; the default is runs/sweep/NAME. A
    study in it is resumed. A second process on it is refused."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when all trials are finished, 1 when a file failed, 130 after Ctrl-C, 143
        after SIGTERM.

    Raises:
        UserError: invalid options, config, data or directory.
    """
    path = config_file(arguments, USAGE)
    if path is None:
        return 0
    options = parse_options(SweepOptions, path, arguments[1:], PROGRAM)
    check_space(options.config, path)
    if options.trials < 1:
        raise UserError(f"--trials is {options.trials}, but should be 1 or more.")
    config = options.config
    search = Search(
        folder=options.output or Path("runs", "sweep", path.stem),
        config=config,
        space=config.sweep,
        num_trials=options.trials,
        make_config=lambda values: with_values(config, values, where="sweep"),
        data_dir=options.data_dir,
        command=f"{PROGRAM} {shlex.join(arguments)}",
        evaluate_test=True,
    )
    with open_study(search) as study:
        return _run(study, search)


def _run(study: optuna.Study, search: Search) -> int:
    """Runs the missing trials and prints a report; returns the exit code."""
    try:
        received = run_trials(study, search)
    except (training.TrainingError, OSError) as error:
        print(f"{error}\nTo resume: {search.command}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        received = stopped.signal
    if received is not None:
        print(f"Stopped by {received.name}. To resume: {search.command}", file=sys.stderr)
        return 128 + received
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        print(f"No trial was completed: see the runs in {search.folder}.", file=sys.stderr)
        return 1
    _report(study, search)
    return 0


def _report(study: optuna.Study, search: Search) -> None:
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = study.best_trial
    values = search.make_config(best.params).model_dump(exclude={"sweep"})
    num_trials = len(ended_trials(study))
    header = (
        f"# Found by `{search.command}`:\n"
        f"# validation metric {number(best.value)}, the best of {num_trials} trials.\n"
    )
    write_atomically(search.folder / "best.yaml", header + yaml_files.dump(values))
    states = [trial.state for trial in study.get_trials()]
    pruned = states.count(TrialState.PRUNED)
    table = Table(
        title=f"{len(complete)} trials completed, {pruned} pruned; the best",
        title_justify="left",
    )
    for column in ("validation", "run", *best.params):
        table.add_column(column, justify="right")
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    for trial in sorted(complete, key=lambda trial: sign * (trial.value or 0.0))[:NUM_LISTED]:
        texts = [
            number(value) if isinstance(value, float) else str(value)
            for value in trial.params.values()
        ]
        table.add_row(number(trial.value), directory(trial), *texts)
    Console(highlight=False).print(table)
    print(f"The best config is {search.folder / 'best.yaml'}")
