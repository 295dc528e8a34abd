"""Training of several seeds of one config as one vmapped program."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import stop
from experiments.config import ExperimentConfig
from experiments.runs.directory import RunDirectory
from experiments.runs.logs import open_logs
from experiments.runs.run import finalize_run, fit_options, make_optimizer, start_run
from experiments.task import Task
from experiments.typing import Metrics, Params
from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.progress import Progress
from gru_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run to be trained."""

    run: RunDirectory
    config: ExperimentConfig
    task: Task


def train_vmapped(
    planned: Sequence[PlannedRun],
    group: RunDirectory,
    command: str,
    log_names: tuple[str, ...],
    mesh: Mesh | None = None,
) -> Any:
    """Trains runs as one vmapped program; each directory gets the files of an ordinary run.

    Until all runs are finished, the checkpoints are in the group's directory. Each run's metrics
    are written during the training.

    Args:
        planned: the runs; their configs differ only in the seed.
        group: the directory that they share during the training.
        command: the user's command line.
        log_names: names of `experiments.runs.log_options.LOGS`, for each run.
        mesh: devices for the runs, its axis `seed`, and for their batches, its axis `data`; None
            for the default device.

    Returns:
        The signal that stopped the training, which can then be resumed, or None.

    Raises:
        TrainingError: as :func:`gru_jax.training.fit`.
    """
    started = time.monotonic()
    seeds = [plan.config.seed for plan in planned]
    # Some may be finished already, if the last call was interrupted after the training.
    metas = {
        plan.config.seed: {
            **start_run(plan.run, plan.task, plan.config, command),
            "vmapped_seeds": seeds,
        }
        for plan in planned
        if not plan.run.is_finished()
    }
    group.path.mkdir(parents=True, exist_ok=True)
    task, config = planned[0].task, planned[0].config
    optimizer = make_optimizer(config, task)
    states = [
        training.TrainState.create(plan.task.params, optimizer, plan.task.carry) for plan in planned
    ]
    # Each run has its own best step, so every checkpoint is retained.
    max_to_keep = config.training.steps // config.training.eval_every + 2
    options = {
        **fit_options(group, config),
        "checkpoints": training.CheckpointOptions(group.checkpoints, max_to_keep=max_to_keep),
    }
    with contextlib.ExitStack() as stack:
        logs = [
            (plan, stack.enter_context(open_logs(plan.run, plan.config, log_names)).writer)
            for plan in planned
            if not plan.run.is_finished()
        ]
        result = training.fit(
            _place_state(training.TrainState.stack(states), mesh),
            _make_step(planned, optimizer),
            lambda step: _place_batches(
                jax.tree.map(
                    lambda *leaves: np.stack(leaves),
                    *(plan.task.batch_at(step) for plan in planned),
                ),
                mesh,
            ),
            evaluate=lambda params: _evaluate(
                planned, params if mesh is None else jax.device_get(params)
            ),
            monitor=task.monitor,
            mode=task.mode,
            stop=stop.received if stop.is_watching() else None,
            metrics=_Logs(training.JsonlWriter(group.metrics), logs),
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
                    f"The checkpoint of step {progress.best_step} in {group.checkpoints} is "
                    f"missing. Remove {group.path} to train these runs again."
                )
            best = restored[0].unstack(index)
            if mesh is not None:
                best = jax.tree.map(jnp.asarray, jax.device_get(best))
            _write_run(plan, best, progress, result, metas[plan.config.seed], started)
    shutil.rmtree(group.path)
    return None


def _place_state(state: training.TrainState, mesh: Mesh | None) -> training.TrainState:
    if mesh is None:
        return state
    params, opt_state = (_place(tree, mesh, "seed") for tree in (state.params, state.opt_state))
    carry = _place_batches(state.carry, mesh)
    return training.TrainState(_place(state.step, mesh), params, opt_state, carry)


def _place_batches(batches: Any, mesh: Mesh | None) -> Any:
    """Spreads the runs over an axis of the mesh, and the sequences of each over another."""
    return batches if mesh is None else _place(batches, mesh, "seed", "data")


def _place(tree: Any, mesh: Mesh, *axes: str) -> Any:
    names = [axis if axis in mesh.axis_names else None for axis in axes]

    def place(leaf: Any) -> jax.Array:
        # What has no axis of sequences, as the flags of a stream, is the same for all of a run's.
        spec = PartitionSpec(*names[: np.ndim(leaf)])
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def _make_step(planned: Sequence[PlannedRun], optimizer: Any) -> TrainStep:
    """Returns the train step of all runs; its metrics are means, and each run's, by prefix."""
    seeds = [plan.config.seed for plan in planned]
    task = planned[0].task
    if task.loss is not None:
        steps = training.make_vmapped_train_step(
            task.loss, optimizer, seeds=seeds, batch_weight=task.batch_weight
        )
    else:
        assert task.update is not None, "a task has a loss or an update"
        steps = training.vmap_update(partial(task.update, optimizer), seeds=seeds)

    def step(state: training.TrainState, batch: Any) -> tuple[training.TrainState, dict[str, Any]]:
        state, metrics = steps(state, batch)
        means = {name: jnp.mean(values) for name, values in metrics.items()}
        own = {
            _prefixed(seed, name): values[index]
            for index, seed in enumerate(seeds)
            for name, values in metrics.items()
        }
        return state, means | own

    return jax.jit(step, donate_argnums=0)


def _evaluate(planned: Sequence[PlannedRun], params: Params) -> Metrics:
    metrics, task = {}, planned[0].task
    for index, plan in enumerate(planned):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], params)
        for name, value in task.evaluate(own, "validation").items():
            metrics[_prefixed(plan.config.seed, name)] = value
    values = [metrics[_prefixed(plan.config.seed, task.monitor)] for plan in planned]
    return {**metrics, task.monitor: float(np.mean(values))}


def _prefixed(seed: int, name: str) -> str:
    return f"s{seed} {name}"


@dataclasses.dataclass(frozen=True)
class _Logs:
    """Writes the rows of the group, and to each run's log the rows of an ordinary run."""

    group: training.JsonlWriter
    runs: Sequence[tuple[PlannedRun, training.MetricsWriter]]

    def resume_from(self, step: int) -> None:
        self.group.resume_from(step)
        rows = training.read_metrics(self.group.path)
        for plan, log in self.runs:
            plan.run.metrics.unlink(missing_ok=True)
            metrics = training.JsonlWriter(plan.run.metrics)
            for row in rows:
                metrics.write(_row_of_seed(row, plan.config.seed))
            log.resume_from(step)

    def write(self, row: Mapping[str, Any]) -> None:
        self.group.write(row)
        for plan, log in self.runs:
            log.write(_row_of_seed(row, plan.config.seed))


def _row_of_seed(row: Mapping[str, Any], seed: int) -> dict[str, Any]:
    prefix = _prefixed(seed, "")
    shared = ("step", "split", "seconds", "steps_per_second")
    return {name: row[name] for name in shared if name in row} | {
        name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)
    }


def _best(rows: Sequence[dict[str, Any]], task: Task) -> Progress:
    progress = Progress()
    for row in rows:
        if row.get("split") == "validation" and task.monitor in row:
            progress.step = row["step"]
            metrics = {
                name: np.nan if value is None else value
                for name, value in row.items()
                if name not in ("step", "split", "seconds")
            }
            progress.add_evaluation(metrics, task.monitor, task.mode)
    return progress


def _write_run(
    plan: PlannedRun,
    best: training.TrainState,
    progress: Progress,
    group_result: training.FitResult,
    meta: dict[str, Any],
    started: float,
) -> None:
    """Writes the best checkpoint, the plots and the summary of a run."""
    assert progress.best_step is not None
    shutil.rmtree(plan.run.checkpoints, ignore_errors=True)
    at_best = dataclasses.replace(progress, step=progress.best_step)
    with CheckpointStore(training.CheckpointOptions(plan.run.checkpoints)) as store:
        store.save(best, at_best)
    result = dataclasses.replace(
        group_result,
        best_params=best.params,
        best_step=progress.best_step,
        best_metrics=progress.best_metrics,
    )
    finalize_run(plan.run, plan.task, plan.config, result, meta, started)
