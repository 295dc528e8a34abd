"""The command `sweep CONFIG`: hyper-parameter search with Optuna in a config's ranges."""

import shlex
import signal
import sys
from pathlib import Path

import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from experiments import stop, yaml_files
from experiments.commands.sweep.options import PROGRAM, SweepOptions
from experiments.files import write_atomically
from experiments.runs.cli_options import Parsed
from experiments.runs.config_loading import with_values
from experiments.runs.search import (
    Search,
    ended_trials,
    open_study,
    run_trials,
)
from experiments.runs.study_storage import directory
from experiments.runs.workers import run_workers
from experiments.stop import Stopped
from experiments.tables import number
from gru_jax import training

NUM_LISTED = 10


def main(parsed: Parsed[SweepOptions]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when all trials are finished, 1 when a file failed, 130 after Ctrl-C, 143
        after SIGTERM.

    Raises:
        UserError: invalid config, data or directory.
    """
    options, config = parsed.options, parsed.options.config
    search = Search(
        folder=options.output or Path("runs", "sweep", parsed.path.stem),
        config=config,
        space=config.sweep,
        num_trials=options.trials,
        make_config=lambda values: with_values(config, values, where="sweep"),
        data_dir=options.data_dir,
        command=parsed.command,
        evaluate_test=True,
        storage=options.storage,
    )
    if options.workers != 1:
        received = run_workers(_of_worker(parsed.command), options.workers, search.folder)
        if received is not None:
            return _stopped(received, search)
    # After workers, this process finishes what those that were killed have left, and reports.
    with open_study(search) as study:
        return _run(study, search)


def _of_worker(command: str) -> list[str]:
    """Returns the arguments of one worker, from the user's command line."""
    arguments = shlex.split(command)[len(shlex.split(PROGRAM)) :]
    return ["sweep", *arguments, "--workers", "1"]


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
        return _stopped(received, search)
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        print(f"No trial was completed: see the runs in {search.folder}.", file=sys.stderr)
        return 1
    _report(study, search)
    return 0


def _stopped(received: signal.Signals, search: Search) -> int:
    """Prints how to resume, and returns the exit code."""
    print(f"Stopped by {stop.name_of(received)}. To resume: {search.command}", file=sys.stderr)
    return 128 + received


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
