"""Search for hyper-parameters with Optuna, by validation metrics, with pruning and resume."""

import contextlib
import dataclasses
import math
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError

from experiments import stop
from experiments.config import ExperimentConfig, Range
from experiments.errors import UserError
from experiments.runs.config_loading import differences
from experiments.runs.directory import chosen_run_directory
from experiments.runs.lock import hold
from experiments.runs.run import finalize_run, start_run, train_run
from experiments.runs.search_space import Space, grid
from experiments.tasks import load_task
from experiments.typing import Metrics, Params
from gru_jax import training

# A trial is compared with the median of the others only when there are this many, and only in the
# second half of its training: on some tasks a network makes no progress for a long time.
PRUNING_STARTUP_TRIALS = 3


@dataclasses.dataclass(frozen=True)
class Search:
    """A search in a directory of its own.

    Attributes:
        folder: directory of the study and of the trials' runs. A study in it is resumed.
        config: the experiment; its seed is that of all trials and of the sampler.
        space: search space by dotted key. Where every key has choices, the search is the whole
            grid; otherwise Optuna's TPE sampler suggests values.
        num_trials: total number of trials, including those of earlier calls; unused for a grid.
        make_config: returns the config of a trial, from values by dotted key.
        data_dir: directory of data files.
        command: the user's command line.
        evaluate_test: whether a completed trial becomes a finished run, with test metrics. Without
            it the test split is never evaluated.
    """

    folder: Path
    config: ExperimentConfig
    space: Space
    num_trials: int
    make_config: Callable[[Mapping[str, Any]], ExperimentConfig]
    data_dir: Path
    command: str
    evaluate_test: bool


@contextlib.contextmanager
def open_storage(folder: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Opens the storage of the study in a directory."""
    # Optuna leaves its connection to a file that is no database open.
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection:
        connection.execute("PRAGMA schema_version")
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def open_study(search: Search) -> Iterator[optuna.Study]:
    """Opens the study of a search; interrupted trials are enqueued, to resume from checkpoints.

    Raises:
        UserError: the directory holds a study of another search space or a damaged one, or is in
            use.
    """
    with hold(search.folder), contextlib.ExitStack() as stack:
        try:
            study = _open(search, stack.enter_context(open_storage(search.folder)))
        except (sqlite3.DatabaseError, DatabaseError, optuna.exceptions.StorageInternalError):
            raise UserError(
                f"{search.folder / 'study.db'} is corrupted. Give another --output, or delete "
                f"{search.folder}: its trials are lost."
            ) from None
        yield study


def _open(search: Search, storage: optuna.storages.RDBStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = load_task(search.config.task).build(search.config, search.data_dir)
    of_training = search.config.training
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="minimize" if task.mode == "min" else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=PRUNING_STARTUP_TRIALS,
            n_warmup_steps=of_training.steps // of_training.eval_every // 2,
        ),
    )
    ranges = {key: of_key.model_dump(exclude_none=True) for key, of_key in search.space.items()}
    changed = "; ".join(differences(ranges, study.user_attrs.get("ranges", ranges)))
    if changed:
        raise UserError(
            f"{search.folder} holds a study of other ranges. They differ in {changed}. "
            "Restore the ranges, or give another --output."
        )
    study.set_user_attr("ranges", ranges)
    # With the seed of the first call, a resumed study would sample the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=search.config.seed + len(study.trials))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(
            trial.system_attrs.get("fixed_params", trial.params),
            user_attrs={"directory": directory(trial), **trial.user_attrs},
        )
        study.tell(trial.number, state=TrialState.FAIL)
    for point in grid(search.space) or []:
        study.enqueue_trial(point, skip_if_exists=True)
    return study


def run_trials(study: optuna.Study, search: Search) -> signal.Signals | None:
    """Runs the missing trials; returns the signal that stopped them, or None.

    Raises:
        TrainingError, OSError: a file could not be read or written. The search can be resumed.
    """
    points = grid(search.space)
    num_trials = search.num_trials if points is None else len(points)
    while len(ended_trials(study)) < num_trials:
        stop.check()
        trial = study.ask()
        with hold(search.folder / directory(trial)):
            received = _run_trial(study, trial, search)
        if received is not None:
            return received
    return None


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that are completed, pruned or diverged."""
    return [trial for trial in study.get_trials() if state(trial) is not None]


def state(trial: FrozenTrial) -> str | None:
    """Returns "complete", "pruned" or "diverged"; None for an interrupted trial."""
    if "diverged" in trial.user_attrs:
        return "diverged"
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    return names.get(trial.state)


def directory(trial: Any) -> str:
    """Returns the name of a trial's run directory."""
    return trial.user_attrs.get("directory", f"trial-{trial.number}")


def _run_trial(study: optuna.Study, trial: optuna.Trial, search: Search) -> Any:
    """Runs a trial and tells the study; returns the signal that stopped it, or None."""
    started = time.monotonic()
    values = {key: _suggest(trial, key, of_key) for key, of_key in search.space.items()}
    config = search.make_config(values).model_copy(update={"sweep": {}})
    run = chosen_run_directory(search.folder / directory(trial), config, "auto")
    task = load_task(config.task).build(config, search.data_dir)
    meta = start_run(run, config, search.command)
    earlier = training.read_metrics(run.metrics) if run.metrics.exists() else []
    reported = 0
    for row in earlier:
        if row.get("split") == "validation":
            value = row.get(task.monitor)
            trial.report(math.nan if value is None else value, reported)
            reported += 1

    def evaluate(params: Params, split: Any) -> Metrics:
        metrics = task.evaluate(params, split)
        if split == "validation":
            rows = training.read_metrics(run.metrics)
            step = sum(row.get("split") == "validation" for row in rows)
            # Validations logged after the last checkpoint are repeated, with equal metrics.
            if step >= reported:
                trial.report(metrics[task.monitor], step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return metrics

    try:
        result = train_run(run, dataclasses.replace(task, evaluate=evaluate), config, "auto")
    except optuna.TrialPruned:
        trial.set_user_attr("steps", training.read_metrics(run.metrics)[-1]["step"])
        study.tell(trial, state=TrialState.PRUNED)
        return None
    except training.NonFiniteLossError as error:
        print(f"{run.path}: {error}", file=sys.stderr)
        trial.set_user_attr("steps", error.step)
        trial.set_user_attr("diverged", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    if result.status == "interrupted":
        return result.signal
    if search.evaluate_test:
        finalize_run(run, task, config, result, meta, started)
    assert result.best_metrics is not None
    trial.set_user_attr("steps", int(result.state.step))
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


def trial_records(study: optuna.Study) -> list[dict[str, Any]]:
    """Returns the values, best validation metric, state and number of steps of each ended trial.

    A diverged trial counts as the worst: it has no validation metric.
    """
    best = min if study.direction == optuna.study.StudyDirection.MINIMIZE else max
    records = []
    for trial in ended_trials(study):
        validations = [v for v in trial.intermediate_values.values() if math.isfinite(v)]
        records.append(
            {
                "values": trial.params,
                "validation": None
                if state(trial) == "diverged"
                else best(validations, default=None),
                "state": state(trial),
                "steps": trial.user_attrs["steps"],
            }
        )
    return records
