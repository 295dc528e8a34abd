"""The command `sweep CONFIG`: hyper-parameter search with Optuna in a config's ranges."""

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic

import optuna
import tyro
import yaml
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from experiments.config import ExperimentConfig, Range
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs.cli_options import Config, config_file, parse_options
from experiments.runs.config_loading import differences, with_values
from experiments.runs.directory import chosen_run_directory
from experiments.runs.run import finalize_run, start_run, train_run
from experiments.tables import number
from experiments.task import Task
from experiments.tasks import load_task
from experiments.typing import Metrics, Params
from gru_jax import training

PROGRAM = "python -m experiments sweep"
USAGE = f"""usage: {PROGRAM} CONFIG [--trials 20 ...]

Trains the experiment of the YAML file CONFIG with values from the ranges under its key `sweep`,
and writes the best as a config. `{PROGRAM} CONFIG --help` lists the options."""
NUM_LISTED = 10


@dataclasses.dataclass(frozen=True)
class SweepOptions(Generic[Config]):
    """Options of `sweep`."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    trials: int = 20
    """Total number of trials, including those of earlier calls."""
    output: Path | None = None
    """Directory of the study, its runs and the best config; the default is runs/sweep/NAME. A
    study in it is resumed. Only one process at a time may use it."""
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
    if not options.config.sweep:
        raise UserError(f"{path} has no ranges: the key sweep is missing.")
    if options.trials < 1:
        raise UserError(f"--trials is {options.trials}, but should be 1 or more.")
    for key, of_key in options.config.sweep.items():
        for value in of_key.choices or (of_key.low, of_key.high):
            with_values(options.config, {key: value}, where="sweep")
    output = options.output or Path("runs", "sweep", path.stem)
    command = f"{PROGRAM} {shlex.join(arguments)}"
    task = load_task(options.config.task).build(options.config, options.data_dir)
    output.mkdir(parents=True, exist_ok=True)
    with open_storage(output) as storage:
        study = _open(storage, output, options.config, task)
        return _run_trials(study, output, options, command)


@contextlib.contextmanager
def open_storage(output: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Opens the storage of the study in a directory."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{output / 'study.db'}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _run_trials(study: optuna.Study, output: Path, options: SweepOptions[Any], command: str) -> int:
    """Runs the missing trials and prints a report; returns the exit code."""
    while _count_ended(study) < options.trials:
        trial = study.ask()
        try:
            stop = _run_trial(study, trial, output, options, command)
        except (training.TrainingError, OSError) as error:
            print(f"{error}\nTo resume: {command}", file=sys.stderr)
            return 1
        if stop is not None:
            print(f"Stopped by {stop.name}. To resume: {command}", file=sys.stderr)
            return 128 + stop
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        print(f"No trial was completed: see the runs in {output}.", file=sys.stderr)
        return 1
    _report(study, output, options.config, command)
    return 0


def _open(
    storage: optuna.storages.RDBStorage, output: Path, config: ExperimentConfig, task: Task
) -> optuna.Study:
    """Opens the study; interrupted trials are enqueued first, to resume from their checkpoints."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="minimize" if task.mode == "min" else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    )
    ranges = {key: of_key.model_dump(exclude_none=True) for key, of_key in config.sweep.items()}
    changed = "; ".join(differences(ranges, study.user_attrs.get("ranges", ranges)))
    if changed:
        raise UserError(
            f"{output} holds a study of other ranges. They differ in {changed}. "
            "Restore the ranges, or give another --output."
        )
    study.set_user_attr("ranges", ranges)
    # With the seed of the first call, a resumed study would sample the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(
            trial.params, user_attrs={"directory": _directory(trial), **trial.user_attrs}
        )
    return study


def _count_ended(study: optuna.Study) -> int:
    """Returns the number of trials that are completed, pruned or diverged."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return sum(t.state in ended or "diverged" in t.user_attrs for t in study.get_trials())


def _directory(trial: Any) -> str:
    return trial.user_attrs.get("directory", f"trial-{trial.number}")


def _run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    output: Path,
    options: SweepOptions[Any],
    command: str,
) -> Any:
    """Runs a trial and tells the study; returns the signal that stopped it, or None."""
    started = time.monotonic()
    values = {key: _suggest(trial, key, of_key) for key, of_key in options.config.sweep.items()}
    config = with_values(options.config, values, where="sweep").model_copy(update={"sweep": {}})
    run = chosen_run_directory(output / _directory(trial), config, "auto")
    task = load_task(config.task).build(config, options.data_dir)
    meta = start_run(run, config, command)
    earlier = training.read_metrics(run.metrics) if run.metrics.exists() else []
    reported = 0
    for row in earlier:
        if row["split"] == "validation":
            trial.report(row[task.monitor], reported)
            reported += 1

    def evaluate(params: Params, split: Any) -> Metrics:
        metrics = task.evaluate(params, split)
        if split == "validation":
            rows = training.read_metrics(run.metrics)
            step = sum(row["split"] == "validation" for row in rows)
            # Validations logged after the last checkpoint are repeated, with equal metrics.
            if step >= reported:
                trial.report(metrics[task.monitor], step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return metrics

    try:
        result = train_run(run, dataclasses.replace(task, evaluate=evaluate), config, "auto")
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return None
    except training.NonFiniteLossError as error:
        print(f"{run.path}: {error}", file=sys.stderr)
        trial.set_user_attr("diverged", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    if result.status == "interrupted":
        return result.signal
    finalize_run(run, task, config, result, meta, started)
    assert result.best_metrics is not None
    study.tell(trial, result.best_metrics[task.monitor])
    return None


def _suggest(trial: optuna.Trial, key: str, of_key: Range) -> Any:
    if of_key.choices is not None:
        return trial.suggest_categorical(key, of_key.choices)
    low, high = of_key.low, of_key.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=of_key.log)
    assert low is not None
    assert high is not None
    return trial.suggest_float(key, low, high, log=of_key.log)


def _report(study: optuna.Study, output: Path, config: ExperimentConfig, command: str) -> None:
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = study.best_trial
    values = with_values(config, best.params, where="sweep").model_dump(exclude={"sweep"})
    header = (
        f"# Found by `{command}`:\n"
        f"# validation metric {number(best.value)}, the best of {_count_ended(study)} trials.\n"
    )
    write_atomically(output / "best.yaml", header + yaml.safe_dump(values, sort_keys=False))
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
        table.add_row(number(trial.value), _directory(trial), *texts)
    Console(highlight=False).print(table)
    print(f"The best config is {output / 'best.yaml'}")
