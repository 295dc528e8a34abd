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
from experiments.build import build_task
from experiments.config import ExperimentConfig, Range
from experiments.errors import UserError
from experiments.runs.config_loading import differences, flat
from experiments.runs.directory import chosen_run_directory
from experiments.runs.lock import HeldError, hold
from experiments.runs.run import finalize_run, start_run, train_run
from experiments.runs.search_space import Space, grid
from experiments.runs.study_storage import (
    directory,
    enqueue_again,
    heartbeats,
    hide_experimental_warnings,
    open_storage,
)
from experiments.typing import Metrics, Params
from gru_jax import training

# A trial is compared with the median of the others only when there are this many, and only in the
# second half of its training: on some tasks a network makes no progress for a long time.
PRUNING_STARTUP_TRIALS = 3
# Between two looks at what other workers do, and the longest wait for one that opens the study.
POLL_SECONDS = 0.5
OPENING_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Search:
    """A search in a directory of its own, which several workers share if it has a storage URL.

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
        storage: Optuna's URL of the database of a study that several workers share; None for a file
            in the directory, which one process at a time uses.
    """

    folder: Path
    config: ExperimentConfig
    space: Space
    num_trials: int
    make_config: Callable[[Mapping[str, Any]], ExperimentConfig]
    data_dir: Path
    command: str
    evaluate_test: bool
    storage: str | None = None


@contextlib.contextmanager
def open_study(search: Search) -> Iterator[optuna.Study]:
    """Opens the study of a search; interrupted trials are enqueued, to resume from checkpoints.

    Raises:
        UserError: the directory holds a study of another search space or config or a corrupted one,
            or is in use.
    """
    with contextlib.ExitStack() as stack:
        opening = stack if search.storage is None else contextlib.ExitStack()
        _hold(search, opening)
        try:
            storage = stack.enter_context(open_storage(search.folder, search.storage))
            study = _open(search, storage)
        except (sqlite3.DatabaseError, DatabaseError, optuna.exceptions.StorageInternalError):
            raise UserError(
                f"{search.folder / 'study.db'} is corrupted. Give another --output, or delete "
                f"{search.folder}: its trials are lost."
            ) from None
        finally:
            if search.storage is not None:
                opening.close()
        yield study


def _hold(search: Search, stack: contextlib.ExitStack) -> None:
    """Locks the directory; waits where other workers lock it for as long as they open the study."""
    end = time.monotonic() + (0 if search.storage is None else OPENING_SECONDS)
    while True:
        try:
            stack.enter_context(hold(search.folder))
            return
        except HeldError:
            if time.monotonic() >= end:
                raise
        stop.check()
        time.sleep(POLL_SECONDS)


def _open(search: Search, storage: optuna.storages.RDBStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = build_task(search.config, search.data_dir)
    of_training = search.config.training
    study = optuna.create_study(
        storage=storage,
        # A shared database may hold many studies.
        study_name="sweep" if search.storage is None else str(search.folder),
        direction="minimize" if task.mode == "min" else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=PRUNING_STARTUP_TRIALS,
            n_warmup_steps=of_training.steps // of_training.eval_every // 2,
        ),
    )
    ranges = {key: of_key.model_dump(exclude_none=True) for key, of_key in search.space.items()}
    _check_unchanged(study, search.folder, "ranges", ranges)
    _check_unchanged(study, search.folder, "config", _fixed_values(search.config))
    if search.storage is None:
        # With the seed of the first call, a resumed study would sample the same values again.
        study.sampler = optuna.samplers.TPESampler(seed=search.config.seed + len(study.trials))
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            enqueue_again(study, trial)
            study.tell(trial.number, state=TrialState.FAIL)
    else:
        # Each worker samples for itself, and away from what the others are trying.
        with hide_experimental_warnings():
            study.sampler = optuna.samplers.TPESampler(constant_liar=True)
    for point in grid(search.space) or []:
        study.enqueue_trial(point, skip_if_exists=True)
    return study


def _check_unchanged(study: optuna.Study, folder: Path, what: str, values: dict[str, Any]) -> None:
    """Compares values with those that a study was begun with, and stores them in a new one.

    Raises:
        UserError: they differ.
    """
    changed = "; ".join(differences(values, study.user_attrs.get(what, values)))
    if changed:
        raise UserError(
            f"{folder} holds a study of other values of the {what}. They differ in {changed}. "
            f"Restore the {what}, or give another --output."
        )
    study.set_user_attr(what, values)


def _fixed_values(config: ExperimentConfig) -> dict[str, Any]:
    """Returns a config's values that all trials have, by dotted key."""
    other = {"cells", "published", "sweep", "variants"}
    values = flat(config.model_dump(mode="json", exclude=other))
    return {key: value for key, value in values if key not in config.sweep}


def run_trials(study: optuna.Study, search: Search) -> signal.Signals | None:
    """Runs the missing trials; returns the signal that stopped them, or None.

    Raises:
        TrainingError, OSError: a file could not be read or written. The search can be resumed.
    """
    points = grid(search.space)
    num_trials = search.num_trials if points is None else len(points)
    while len(ended_trials(study)) < num_trials:
        stop.check()
        if search.storage is not None:
            with hide_experimental_warnings():
                optuna.storages.fail_stale_trials(study)
            if _all_begun(study, num_trials):
                # The others finish theirs; if one dies, its trial is waiting again.
                time.sleep(POLL_SECONDS)
                continue
        with hide_experimental_warnings():
            trial = study.ask()
        if trial.number not in _begun_first(study, num_trials):
            # Another worker asked at the same time and got the last one.
            study.tell(trial, state=TrialState.FAIL)
            continue
        with (
            hold(search.folder / directory(trial)),
            heartbeats(study, trial, is_shared=search.storage is not None),
        ):
            received = _run_trial(study, trial, search)
        if received is not None:
            if search.storage is not None:
                enqueue_again(study, study.get_trials()[trial.number])
                study.tell(trial, state=TrialState.FAIL)
            return received
    return None


def _begun_first(study: optuna.Study, num_trials: int) -> list[int]:
    """Returns the numbers of the first trials that ended, run or wait, not of interrupted ones."""
    open_states = (TrialState.RUNNING, TrialState.WAITING)
    valid = [t.number for t in study.get_trials() if state(t) is not None or t.state in open_states]
    return valid[:num_trials]


def _all_begun(study: optuna.Study, num_trials: int) -> bool:
    """Whether other workers run all trials that have not ended."""
    is_waiting = bool(study.get_trials(states=(TrialState.WAITING,)))
    return not is_waiting and len(_begun_first(study, num_trials)) == num_trials


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that are completed, pruned or diverged."""
    return [trial for trial in study.get_trials() if state(trial) is not None]


def state(trial: FrozenTrial) -> str | None:
    """Returns "complete", "pruned" or "diverged"; None for an interrupted trial."""
    if "diverged" in trial.user_attrs:
        return "diverged"
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    return names.get(trial.state)


def _run_trial(study: optuna.Study, trial: optuna.Trial, search: Search) -> Any:
    """Runs a trial and tells the study; returns the signal that stopped it, or None."""
    started = time.monotonic()
    values = {key: _suggest(trial, key, of_key) for key, of_key in search.space.items()}
    config = search.make_config(values).model_copy(update={"sweep": {}})
    run = chosen_run_directory(search.folder / directory(trial), config, "auto")
    task = build_task(config, search.data_dir)
    meta = start_run(run, task, config, search.command)
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
