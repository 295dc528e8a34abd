"""The command `train CONFIG`: trains an experiment and reports it next to its baselines."""

import contextlib
import shlex
import signal
import sys
import time
from pathlib import Path

from experiments import stop
from experiments.commands.train.closing import closing_words
from experiments.commands.train.options import TrainOptions
from experiments.config import ExperimentConfig
from experiments.program import typed
from experiments.runs.cli_options import Parsed
from experiments.runs.directory import (
    RunDirectory,
    chosen_run_directory,
    new_run_directory,
)
from experiments.runs.lock import HeldError, hold
from experiments.runs.records import read_meta, read_summary
from experiments.runs.run import (
    check_published,
    finalize_run,
    num_parameters,
    start_run,
    train_run,
    write_tensorboard,
)
from experiments.status import doing, is_on
from experiments.stop import Stopped
from experiments.tables import model_name, print_report
from experiments.tasks import load_task
from gru_jax import training


def main(parsed: Parsed[TrainOptions]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when the run is finished, 1 when it failed and can be resumed, 130 after
        Ctrl-C, 143 after SIGTERM.

    Raises:
        UserError: invalid config, data or run directory; nothing was written.
    """
    options = parsed.options
    with contextlib.ExitStack() as stack:
        run = _run_directory(parsed.path.stem, options, stack)
        if run.is_finished():
            if options.tensorboard:
                write_tensorboard(run)
            _print_result(run, parsed.path, options.config)
            return 0
        try:
            return _train(run, parsed)
        except (training.TrainingError, OSError) as error:
            print(f"{error}\n{_how_to_resume(run, options)}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            return _stopped(stopped.signal, run, options)
        except KeyboardInterrupt:
            return _stopped(signal.SIGINT, run, options)


def _run_directory(
    name: str, options: TrainOptions[ExperimentConfig], stack: contextlib.ExitStack
) -> RunDirectory:
    """Returns the directory of the run; the stack holds it, unless it is only read."""
    if options.run_dir is not None:
        run = chosen_run_directory(options.run_dir, options.config, options.resume)
        if not run.is_finished() or options.tensorboard:
            stack.enter_context(hold(run.path))
        return run
    while True:
        run = new_run_directory(name, options.config.seed)
        # Another process may choose the same name.
        with contextlib.suppress(HeldError):
            stack.enter_context(hold(run.path))
            return run


def _train(run: RunDirectory, parsed: Parsed[TrainOptions]) -> int:
    started = time.monotonic()
    options, config = parsed.options, parsed.options.config
    with doing("Loading the data"):
        task = load_task(config.task).build(config, options.data_dir)
    check_published(config, task)
    stop.check()
    meta = start_run(run, config, parsed.command)
    model = f"{model_name(config.model)}, {num_parameters(task.params):,} parameters"
    print(f"{model}, in {run.path}", flush=True)
    stop.check()
    # A run that was stopped before its first checkpoint has a directory, but nothing to resume.
    resume = "auto" if options.resume == "must" else options.resume
    with doing("Compiling the training step") as say:
        result = train_run(
            run, task, config, resume, tensorboard=options.tensorboard, say=say if is_on() else None
        )
    if result.status == "interrupted":
        return _stopped(result.signal or signal.SIGINT, run, options)
    with doing("Drawing plots, testing, and computing baselines"):
        finalize_run(run, task, config, result, meta, started)
    _print_result(run, parsed.path, config)
    return 0


def _print_result(run: RunDirectory, path: Path, config: ExperimentConfig) -> None:
    print_report(read_summary(run), read_meta(run), config.published)
    for text in sorted(run.plots.glob("*.txt")):
        print(f"{text}:\n\n{text.read_text(encoding='utf-8')}")
    for plot in sorted(run.plots.glob("*.png")):
        print(plot)
    print(f"\n{closing_words(run, path, config)}")


def _stopped(
    received: signal.Signals, run: RunDirectory, options: TrainOptions[ExperimentConfig]
) -> int:
    """Prints how to resume, and returns the exit code."""
    print(f"Stopped by {stop.name_of(received)}. {_how_to_resume(run, options)}", file=sys.stderr)
    return 128 + received


def _how_to_resume(run: RunDirectory, options: TrainOptions[ExperimentConfig]) -> str:
    if not run.config.exists():
        return "Nothing was written."
    again = [str(run.config), "--run-dir", str(run.path), "--data-dir", str(options.data_dir)]
    again += ["--tensorboard"] * options.tensorboard
    return f"To resume: {typed()} train {shlex.join(again)}"
