"""One run: a config trained in a directory of its own, until its summary is there."""

import contextlib
import datetime
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_json
from experiments.runs.directory import RunDirectory, read_json
from experiments.runs.provenance import provenance
from experiments.tables import model_name
from experiments.task import Params, Task
from experiments.tasks import load_task
from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore


def fit_run(
    run: RunDirectory,
    task: Task,
    config: ExperimentConfig,
    resume: Any,
    *,
    tensorboard: bool = False,
) -> Any:
    """Trains a task, or goes on with it, as the config says: :func:`gru_jax.training.fit`."""
    optimizer = make_optimizer(config)
    with open_log(run, tensorboard=tensorboard) as log:
        return training.fit(
            training.TrainState.create(task.params, optimizer, task.carry),
            training.make_train_step(task.loss, optimizer, seed=config.seed),
            task.batch_at,
            evaluate=lambda params: task.figures(params, "validation"),
            monitor=task.monitor,
            mode=task.mode,
            patience=config.training.patience,
            resume=resume,
            metrics=log,
            **fit_options(run, config),
        )


@contextlib.contextmanager
def open_log(run: RunDirectory, *, tensorboard: bool) -> Iterator[training.MetricsWriter]:
    """What a run reports its rows to: its file of metrics, and TensorBoard's files if asked for."""
    metrics = training.JsonlWriter(run.metrics)
    if not tensorboard:
        yield metrics
        return
    with training.TensorBoardWriter(metrics, run.tensorboard) as log:
        yield log


def check_tensorboard() -> None:
    """Raises UserError where what writes TensorBoard's files is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard needs tensorboardX, which is not installed. "
            "It is the extra tensorboard: pip install -e '.[tensorboard]'."
        )


def write_tensorboard(run: RunDirectory) -> None:
    """Writes the event files for TensorBoard of a finished run.

    Raises:
        UserError: the metrics cannot be read, or the files cannot be written.
    """
    steps = read_json(run.summary)["steps"]
    try:
        with training.TensorBoardWriter(training.JsonlWriter(run.metrics), run.tensorboard) as log:
            log.resume_from(steps)
    except training.TrainingError as error:
        raise UserError(str(error)) from None


def make_optimizer(config: ExperimentConfig) -> Any:
    """The optimiser that a config describes."""
    return training.make_optimizer(**config.optimizer.model_dump(), steps=config.training.steps)


def fit_options(run: RunDirectory, config: ExperimentConfig) -> dict[str, Any]:
    """How long to train, how often to look, and where to save, for `training.fit`."""
    return {
        "steps": config.training.steps,
        "eval_every": config.training.eval_every,
        "log_every": config.training.log_every,
        "checkpoints": training.CheckpointOptions(
            run.checkpoints, max_to_keep=config.training.keep_checkpoints
        ),
    }


def begin(run: RunDirectory, config: ExperimentConfig, command: str) -> dict[str, Any]:
    """Makes the directory, writes config and meta data, and returns the latter.

    Raises:
        UserError: if it cannot be written.
    """
    meta = {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    if run.meta.exists():
        earlier = read_json(run.meta)
        meta["earlier_sessions"] = [*earlier.pop("earlier_sessions", []), earlier]
    run.create(config)
    write_json(run.meta, meta)
    return meta


def finish(
    run: RunDirectory,
    task: Task,
    config: ExperimentConfig,
    result: training.FitResult,
    meta: dict[str, Any],
    started: float,
) -> None:
    """Draws plots and writes the final figures of a run that has come to its end.

    Args:
        run, task, config: what was trained.
        result: of the training.
        meta: as :func:`begin` returned it.
        started: `time.monotonic()` when this command began.
    """
    assert result.best_step is not None
    rows = training.read_metrics(run.metrics)
    plots.learning_curves(
        rows,
        task.loss_figure,
        task.monitor,
        task.labels,
        result.best_step,
        run.plots / "learning_curves.png",
    )
    task.draw(result.best_params, run.plots)
    rate = result.steps_per_second
    # Of a run that was resumed the training alone is known, from its rows; they leave breaks out.
    lasted = max(time.monotonic() - started, rows[-1]["seconds"])
    write_json(
        run.meta,
        {
            **meta,
            "wall_seconds": round(lasted, 2),
            "steps_per_second": rate,
            "sequences_per_second": rate and rate * config.training.batch_size,
        },
    )
    # The summary comes last: where it is, the run is finished.
    write_json(run.summary, _summary(task, config, result))


def check_published(config: ExperimentConfig, task: Task) -> None:
    """Raises UserError where a figure is published that the task does not measure."""
    for place, entry in enumerate(config.published):
        if entry.figure not in task.labels:
            raise UserError(
                f"published.{place}.figure is {entry.figure!r}, but should be "
                f"{' or '.join(task.labels)}, the figures of {config.task}."
            )


def restore_best(
    run: RunDirectory, config: ExperimentConfig, data_dir: Path
) -> tuple[Task, Params]:
    """Returns the task of a finished run, and its best parameters.

    Raises:
        UserError: if the run is not finished, or its checkpoint is gone or damaged.
    """
    if not run.is_finished():
        raise UserError(f"The run in {run.path} is not finished: it has no summary.json.")
    task = load_task(config.task).build(config, data_dir)
    like = training.TrainState.create(task.params, make_optimizer(config), task.carry)
    with CheckpointStore(training.CheckpointOptions(run.checkpoints)) as store:
        restored = store.restore(read_json(run.summary)["best_step"], like)
    if restored is None:
        raise UserError(f"The best parameters of the run in {run.path} are gone.")
    return task, restored[0].params


def num_parameters(params: Any) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _summary(task: Task, config: ExperimentConfig, result: training.FitResult) -> dict[str, Any]:
    """The final figures. Nothing here depends on times or places, so equal runs write it alike."""
    return {
        "task": config.task,
        "seed": config.seed,
        "model": model_name(config.model),
        "parameters": num_parameters(task.params),
        "status": result.status,
        "steps": int(result.state.step),
        "best_step": result.best_step,
        "validation": result.best_metrics,
        "test": task.figures(result.best_params, "test"),
        "baselines": task.baselines(),
    }
