"""Runs of one config that differ in the seed, trained side by side as one program."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ExperimentConfig
from experiments.runs.directory import RunDirectory
from experiments.runs.run import begin, finish, fit_options, make_optimizer, open_log
from experiments.task import Figures, Params, Task
from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.progress import Progress
from gru_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run that is to be made."""

    run: RunDirectory
    config: ExperimentConfig
    task: Task


def train_together(
    planned: Sequence[Planned], group: RunDirectory, command: str, tensorboard: bool
) -> Any:
    """Trains runs side by side, and leaves in each directory what a run of its own leaves.

    Until all are finished, what is needed to go on lies in the group's directory. Each run's rows
    are written as they come.

    Args:
        planned: the runs; their configs differ in the seed alone.
        group: the directory that they share while they are trained.
        command: what the user typed.
        tensorboard: whether each run gets TensorBoard's files, too.

    Returns:
        The signal that stopped the training, which can then be gone on with, or None.

    Raises:
        TrainingError: as :func:`gru_jax.training.fit`.
    """
    started = time.monotonic()
    seeds = [plan.config.seed for plan in planned]
    # Some may be finished already, where the last call was cut off after its training.
    metas = {
        plan.config.seed: {**begin(plan.run, plan.config, command), "side_by_side": seeds}
        for plan in planned
        if not plan.run.is_finished()
    }
    group.path.mkdir(parents=True, exist_ok=True)
    task, config = planned[0].task, planned[0].config
    optimizer = make_optimizer(config)
    states = [
        training.TrainState.create(plan.task.params, optimizer, plan.task.carry) for plan in planned
    ]
    # Each run has a best step of its own, and any step may be one's.
    keep = config.training.steps // config.training.eval_every + 2
    options = {
        **fit_options(group, config),
        "checkpoints": training.CheckpointOptions(group.checkpoints, max_to_keep=keep),
    }
    with contextlib.ExitStack() as stack:
        own = [
            (plan, stack.enter_context(open_log(plan.run, tensorboard=tensorboard)))
            for plan in planned
            if not plan.run.is_finished()
        ]
        result = training.fit(
            training.TrainState.stack(states),
            _make_step(planned, optimizer),
            lambda step: jax.tree.map(
                lambda *leaves: np.stack(leaves), *(plan.task.batch_at(step) for plan in planned)
            ),
            evaluate=lambda params: _evaluate(planned, params),
            monitor=task.monitor,
            mode=task.mode,
            metrics=_Logs(training.JsonlWriter(group.metrics), own),
            **options,
        )
    if result.status == "interrupted":
        return result.signal

    with CheckpointStore(options["checkpoints"]) as store:
        for index, plan in enumerate(planned):
            if plan.run.is_finished():
                continue
            progress = _best(training.read_metrics(plan.run.metrics), task)
            restored = store.restore(progress.best_step or 0, result.state)
            if restored is None:
                raise training.TrainingError(
                    f"The checkpoint of step {progress.best_step} in {group.checkpoints} is gone. "
                    f"Remove {group.path}, and the runs begin anew."
                )
            best = restored[0].unstack(index)
            _leave(plan, best, progress, result, metas[plan.config.seed], started)
    shutil.rmtree(group.path)
    return None


def _make_step(planned: Sequence[Planned], optimizer: Any) -> TrainStep:
    """The step of all runs, whose metrics are scalars: means, and each run's own by name."""
    seeds = [plan.config.seed for plan in planned]
    steps = training.make_vmapped_train_step(planned[0].task.loss, optimizer, seeds=seeds)

    def step(state: training.TrainState, batch: Any) -> tuple[training.TrainState, dict[str, Any]]:
        state, metrics = steps(state, batch)
        means = {name: jnp.mean(values) for name, values in metrics.items()}
        own = {
            _own(seed, name): values[index]
            for index, seed in enumerate(seeds)
            for name, values in metrics.items()
        }
        return state, means | own

    return jax.jit(step, donate_argnums=0)


def _evaluate(planned: Sequence[Planned], params: Params) -> Figures:
    found, task = {}, planned[0].task
    for index, plan in enumerate(planned):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], params)
        for name, value in task.figures(own, "validation").items():
            found[_own(plan.config.seed, name)] = value
    values = [found[_own(plan.config.seed, task.monitor)] for plan in planned]
    return {**found, task.monitor: float(np.mean(values))}


def _own(seed: int, name: str) -> str:
    return f"s{seed} {name}"


@dataclasses.dataclass(frozen=True)
class _Logs:
    """The rows of all runs, and out of them those of each, as it would have written them alone."""

    group: training.JsonlWriter
    own: Sequence[tuple[Planned, training.MetricsWriter]]

    def resume_from(self, step: int) -> None:
        self.group.resume_from(step)
        rows = training.read_metrics(self.group.path)
        for plan, log in self.own:
            plan.run.metrics.unlink(missing_ok=True)
            metrics = training.JsonlWriter(plan.run.metrics)
            for row in rows:
                metrics.write(_own_row(row, plan.config.seed))
            log.resume_from(step)

    def write(self, row: Mapping[str, Any]) -> None:
        self.group.write(row)
        for plan, log in self.own:
            log.write(_own_row(row, plan.config.seed))


def _own_row(row: Mapping[str, Any], seed: int) -> dict[str, Any]:
    prefix = _own(seed, "")
    shared = ("step", "split", "seconds", "steps_per_second")
    return {name: row[name] for name in shared if name in row} | {
        name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)
    }


def _best(rows: Sequence[dict[str, Any]], task: Task) -> Progress:
    progress = Progress()
    for row in rows:
        if row["split"] == "validation":
            progress.step = row["step"]
            figures = {
                name: np.nan if value is None else value
                for name, value in row.items()
                if name not in ("step", "split", "seconds")
            }
            progress.add_evaluation(figures, task.monitor, task.mode)
    return progress


def _leave(
    plan: Planned,
    best: training.TrainState,
    progress: Progress,
    together: training.FitResult,
    meta: dict[str, Any],
    started: float,
) -> None:
    """Writes a run's best checkpoint, plots and summary."""
    assert progress.best_step is not None
    shutil.rmtree(plan.run.checkpoints, ignore_errors=True)
    at_best = dataclasses.replace(progress, step=progress.best_step)
    with CheckpointStore(training.CheckpointOptions(plan.run.checkpoints)) as store:
        store.save(best, at_best)
    result = dataclasses.replace(
        together,
        best_params=best.params,
        best_step=progress.best_step,
        best_metrics=progress.best_metrics,
    )
    finish(plan.run, plan.task, plan.config, result, meta, started)
