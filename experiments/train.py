"""The command `train CONFIG`: trains what a config describes and reports it beside baselines."""

import contextlib
import datetime
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_json
from experiments.options import PROGRAM, USAGE, TrainOptions, parse_train_options
from experiments.provenance import provenance
from experiments.report import model_name, print_report
from experiments.run_directory import (
    RunDirectory,
    chosen_run_directory,
    new_run_directory,
    read_json,
)
from experiments.task import Task
from experiments.tasks import load_task
from gru_jax import training


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when the run is finished, 1 when it failed and can be resumed, 130 after
        Ctrl-C, 143 after SIGTERM.

    Raises:
        UserError: options, config, data or run directory that will not do; nothing was written.
    """
    if not arguments or arguments[0].startswith("-"):
        if arguments not in (["-h"], ["--help"]):
            raise UserError(f"The config file is missing; it comes first.\n\n{USAGE}")
        print(USAGE)
        return 0
    config_file = Path(arguments[0])
    options = parse_train_options(config_file, arguments[1:])
    run = _run_directory(config_file.stem, options)
    if run.is_finished():
        _print_result(run)
        return 0
    with _sigterm_raises():
        try:
            return _train(run, options, arguments)
        except (training.TrainingError, OSError) as error:
            print(f"{error}\n{_how_to_resume(run, options)}", file=sys.stderr)
            return 1
        except (KeyboardInterrupt, _Terminated) as stop:
            return _stopped(type(stop) is KeyboardInterrupt, run, options)


def _run_directory(name: str, options: TrainOptions[ExperimentConfig]) -> RunDirectory:
    if options.run_dir is not None:
        return chosen_run_directory(options.run_dir, options.config, options.resume)
    if options.resume == "must":
        raise UserError("--resume must needs --run-dir, the directory of the run to go on with.")
    return new_run_directory(name, options.config.seed)


def _train(run: RunDirectory, options: TrainOptions[ExperimentConfig], arguments: list[str]) -> int:
    started = time.monotonic()
    config = options.config
    task = load_task(config.task).build(config, options.data_dir)
    meta = _begin_meta(run, arguments)
    run.create(config)
    write_json(run.meta, meta)
    print(f"{model_name(config.model)}, {_size(task.params):,} parameters, in {run.path}")

    result = _fit(task, config, run, options.resume)
    if result.status == "interrupted":
        return _stopped(result.signal == signal.SIGINT, run, options)
    _draw(task, result, run)
    write_json(
        run.meta,
        {
            **meta,
            "wall_seconds": round(time.monotonic() - started, 2),
            "steps_per_second": result.steps_per_second,
            "sequences_per_second": result.steps_per_second
            and result.steps_per_second * config.training.batch_size,
        },
    )
    # The summary comes last: where it is, the run is finished.
    write_json(run.summary, _summary(task, config, result))
    _print_result(run)
    return 0


def _fit(
    task: Task, config: ExperimentConfig, run: RunDirectory, resume: Any
) -> training.FitResult:
    optimizer = training.make_optimizer(
        **config.optimizer.model_dump(), steps=config.training.steps
    )
    return training.fit(
        training.TrainState.create(task.params, optimizer),
        training.make_train_step(task.loss, optimizer, seed=config.seed),
        task.batch_at,
        steps=config.training.steps,
        evaluate=lambda params: task.figures(params, "validation"),
        monitor=task.monitor,
        mode=task.mode,
        eval_every=config.training.eval_every,
        log_every=config.training.log_every,
        patience=config.training.patience,
        checkpoints=training.Checkpoints(run.checkpoints, keep=config.training.keep_checkpoints),
        metrics=training.MetricsLog(run.metrics),
        # A run that was stopped before its first checkpoint has a directory and nothing in it.
        resume="auto" if resume == "must" else resume,
    )


def _begin_meta(run: RunDirectory, arguments: list[str]) -> dict[str, Any]:
    meta = {
        "command": f"{PROGRAM} {shlex.join(arguments)}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    if run.meta.exists():
        earlier = read_json(run.meta)
        meta["earlier_sessions"] = [*earlier.pop("earlier_sessions", []), earlier]
    return meta


def _summary(task: Task, config: ExperimentConfig, result: training.FitResult) -> dict[str, Any]:
    """The final figures. Nothing here depends on times or places, so equal runs write it alike."""
    return {
        "task": config.task,
        "seed": config.seed,
        "model": model_name(config.model),
        "parameters": _size(task.params),
        "status": result.status,
        "steps": int(result.state.step),
        "best_step": result.best_step,
        "validation": result.best_metrics,
        "test": task.figures(result.best_params, "test"),
        "baselines": task.baselines(),
    }


def _draw(task: Task, result: training.FitResult, run: RunDirectory) -> None:
    assert result.best_step is not None
    plots.learning_curves(
        training.read_metrics(run.metrics),
        task.loss_figure,
        task.monitor,
        task.labels,
        result.best_step,
        run.plots / "learning_curves.png",
    )
    task.draw(result.best_params, run.plots)


def _print_result(run: RunDirectory) -> None:
    print_report(read_json(run.summary), read_json(run.meta))
    for plot in sorted(run.plots.glob("*.png")):
        print(plot)


def _stopped(by_ctrl_c: bool, run: RunDirectory, options: TrainOptions[ExperimentConfig]) -> int:
    name = "Ctrl-C" if by_ctrl_c else "SIGTERM"
    print(f"Stopped by {name}. {_how_to_resume(run, options)}", file=sys.stderr)
    return 130 if by_ctrl_c else 143


def _how_to_resume(run: RunDirectory, options: TrainOptions[ExperimentConfig]) -> str:
    if not run.config.exists():
        return "Nothing was written."
    again = [str(run.config), "--run-dir", str(run.path), "--data-dir", str(options.data_dir)]
    return f"To go on: {PROGRAM} {shlex.join(again)}"


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class _Terminated(BaseException):
    """SIGTERM came while the training loop, which meets signals itself, was not running."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
