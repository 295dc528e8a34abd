"""One run: training of a config in its own directory, up to the summary."""

import contextlib
import dataclasses
import datetime
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments import optimizers, plots, stop
from experiments.build import build_task
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.evaluation import on_one_device
from experiments.files import write_json
from experiments.own_data.config import SequencesConfig
from experiments.own_data.model import Model
from experiments.own_data.problems import load_problem
from experiments.runs import bucket
from experiments.runs.directory import RunDirectory
from experiments.runs.provenance import provenance
from experiments.runs.records import read_data_record, read_meta, read_summary
from experiments.runs.training_line import TrainingLine
from experiments.status import Say
from experiments.tables import model_name
from experiments.task import DataRecord, Task
from experiments.typing import Metrics, Params
from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.signals import AgreedSignalHandler, SignalHandler


def train_run(
    run: RunDirectory,
    task: Task,
    config: ExperimentConfig,
    resume: Any,
    *,
    log: training.MetricsWriter | None = None,
    parallel: training.DataParallel | None = None,
    say: Say | None = None,
) -> training.FitResult:
    """Trains a task, or resumes its training, with :func:`gru_jax.training.fit`.

    Metrics go to `log`, by default to the run's JSON lines alone. With `parallel` over several
    devices, on which the best parameters are then, too. With `say`, which is called with the state
    of the training, there is no progress bar. The files of a copy are uploaded before each
    checkpoint.
    """
    optimizer = make_optimizer(config, task)
    state = training.TrainState.create(task.params, optimizer, task.carry)
    batch_at = task.batch_at
    if parallel is not None:
        state, batch_at = parallel.place_state(state), parallel.batches(task.batch_at)
    log = log or training.JsonlWriter(run.metrics)
    if say is not None:
        log = TrainingLine(log, say, config.training.steps, task.monitor)
    with contextlib.ExitStack() as stack:
        received = stop.received if stop.is_watching() else None
        if bucket.is_written(run.path):
            log = _UploadingWriter(log, run.path)
            received = _uploading(run.path, received or stack.enter_context(_handler()).first)
        return training.fit(
            state,
            make_train_step(task, optimizer, config.seed),
            batch_at,
            evaluate=lambda params: task.evaluate(params, "validation"),
            monitor=task.monitor,
            mode=task.mode,
            patience=config.training.patience,
            resume=resume,
            metrics=log,
            progress=None if say is None else False,
            stop=received,
            profile=_profile_options(run, config),
            **fit_options(run, config),
        )


@dataclasses.dataclass
class _UploadingWriter:
    """A metrics writer that uploads the files of a copy at each evaluation: a save follows it."""

    writer: training.MetricsWriter
    folder: Path

    def resume_from(self, step: int) -> None:
        self.writer.resume_from(step)

    def write(self, row: Mapping[str, Any]) -> None:
        self.writer.write(row)
        if row["split"] == "validation":
            bucket.upload(self.folder)


def _uploading(
    folder: Path, received: Callable[[], signal.Signals | None]
) -> Callable[[], signal.Signals | None]:
    """Returns a function that uploads the files of a copy at a signal: a save follows it."""

    def uploading() -> signal.Signals | None:
        number = received()
        if number is not None:
            bucket.upload(folder)
        return number

    return uploading


def _handler() -> SignalHandler:
    """Returns what handles signals in :func:`gru_jax.training.fit` by default."""
    return SignalHandler() if jax.process_count() == 1 else AgreedSignalHandler()


def make_train_step(task: Task, optimizer: Any, seed: int) -> Any:
    """Returns the training step of a task."""
    if task.loss is not None:
        return training.make_train_step(
            task.loss, optimizer, seed=seed, batch_weight=task.batch_weight
        )
    update = task.update
    assert update is not None, "a task has a loss or an update"
    return jax.jit(lambda state, batch: update(optimizer, state, batch, seed), donate_argnums=0)


def make_optimizer(config: ExperimentConfig, task: Task | Model) -> Any:
    """Returns the optimiser of a config."""
    return optimizers.make_optimizer(config, accumulate_by_weight=task.batch_weight is not None)


def fit_options(run: RunDirectory, config: ExperimentConfig) -> dict[str, Any]:
    """Returns the options of `training.fit` for length, intervals and checkpoints."""
    return {
        "steps": config.training.steps,
        "eval_every": config.training.eval_every,
        "log_every": config.training.log_every,
        "checkpoints": training.CheckpointOptions(
            run.checkpoints, max_to_keep=config.training.keep_checkpoints
        ),
    }


def _profile_options(run: RunDirectory, config: ExperimentConfig) -> training.ProfileOptions | None:
    steps = config.training.profile_steps
    return None if steps is None else training.ProfileOptions(run.profile, *steps)


def start_run(
    run: RunDirectory, task: Task, config: ExperimentConfig, command: str
) -> dict[str, Any]:
    """Makes the directory, writes config, data record and metadata, and returns the metadata.

    Raises:
        UserError: the directory cannot be written, its `meta.json` is corrupted, or its data are
            others than those that its training began with.
    """
    meta = {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    earlier = read_meta(run)
    if earlier:
        meta["earlier_sessions"] = [*earlier.pop("earlier_sessions", []), earlier]
    data = None if task.data is None else _data_values(task.data)
    if data is not None and run.data.exists() and read_data_record(run) != data:
        raise UserError(
            f"The data have changed since the training in {run.path} began. "
            "Give another --run-dir to train with the new ones."
        )
    run.create(config)
    if data is not None:
        write_json(run.data, data)
    write_json(run.meta, meta)
    return meta


def _data_values(data: DataRecord) -> dict[str, Any]:
    return {"sentences": list(data.sentences), **data.values}


def finalize_run(
    run: RunDirectory,
    task: Task,
    config: ExperimentConfig,
    result: training.FitResult,
    meta: dict[str, Any],
    started: float,
    test: Metrics | None = None,
) -> None:
    """Writes the plots and the final metrics of a finished run.

    Args:
        run, task, config: the run.
        result: the result of its training.
        meta: its metadata, from :func:`start_run`.
        started: `time.monotonic()` at the start of the command.
        test: the metrics on the test split, where all processes have evaluated it; None evaluates
            it here.
    """
    assert result.best_step is not None
    rows = training.read_metrics(run.metrics)
    plots.learning_curves(
        rows,
        task.loss_metric,
        task.monitor,
        task.metric_labels,
        result.best_step,
        run.plots / "learning_curves.png",
        train=task.train_metric,
    )
    stop.check()
    best_params = on_one_device(result.best_params)
    task.plot(best_params, run.plots)
    stop.check()
    rate = result.steps_per_second
    # The rows of a resumed run count the time of its training only, without the interruptions.
    logged = rows[-1].get("seconds") if rows else None
    elapsed = max(time.monotonic() - started, logged or 0.0)
    write_json(
        run.meta,
        {
            **meta,
            "wall_seconds": round(elapsed, 2),
            "steps_per_second": rate,
            "sequences_per_second": rate and rate * config.sequences_per_step,
        },
    )
    # The summary is written last: it marks the run as finished.
    test = task.evaluate(best_params, "test") if test is None else test
    write_json(run.summary, _summary(task, config, result, test))


def check_published(config: ExperimentConfig, task: Task) -> None:
    """Raises UserError for a published metric that the task does not have."""
    for index, entry in enumerate(config.published):
        if entry.metric not in task.metric_labels:
            raise UserError(
                f"published.{index}.metric is {entry.metric!r}, but should be "
                f"{' or '.join(task.metric_labels)}, the metrics of {config.task}."
            )


def restore_best(
    run: RunDirectory, config: ExperimentConfig, data_dir: Path
) -> tuple[Task, Params]:
    """Returns the task of a finished run, and its best parameters.

    Raises:
        UserError: the run is not finished, or its best checkpoint is missing.
        TrainingError: the checkpoint is corrupted.
    """
    _check_finished(run)
    task = build_task(config, data_dir)
    return task, _best_params(run, config, task)


def restore_model(
    run: RunDirectory, config: ExperimentConfig, data_dir: Path
) -> tuple[Task | Model, Params]:
    """Returns the model of a finished run, and its best parameters; reads no data of one's own.

    Raises:
        UserError, TrainingError: as :func:`restore_best`.
    """
    if not isinstance(config, SequencesConfig):
        return restore_best(run, config, data_dir)
    _check_finished(run)
    where = str(run.data)
    model = load_problem(config.problem).restore(config, read_data_record(run), where)
    return model, _best_params(run, config, model)


def _check_finished(run: RunDirectory) -> None:
    if not run.is_finished():
        raise UserError(f"The run in {run.path} is not finished: it has no summary.json.")


def _best_params(run: RunDirectory, config: ExperimentConfig, model: Task | Model) -> Params:
    like = training.TrainState.create(model.params, make_optimizer(config, model), model.carry)
    best_step = read_summary(run)["best_step"]
    with CheckpointStore(training.CheckpointOptions(run.checkpoints), read_only=True) as store:
        restored = store.restore(best_step, like)
    if restored is None:
        raise UserError(f"The run in {run.path} has no checkpoint of its best parameters.")
    return restored[0].params


def num_parameters(params: Any) -> int:
    """Returns the total number of elements of a tree's leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _summary(
    task: Task, config: ExperimentConfig, result: training.FitResult, test: Metrics
) -> dict[str, Any]:
    """Returns the final metrics. They hold no times or paths, so equal runs write equal files."""
    return {
        "task": config.task,
        "seed": config.seed,
        "model": model_name(config.model),
        "parameters": num_parameters(task.params),
        "status": result.status,
        "steps": int(result.state.step),
        "best_step": result.best_step,
        "validation": result.best_metrics,
        "test": test,
        "baselines": task.evaluate_baselines(),
    }
