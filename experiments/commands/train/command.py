"""The command `train CONFIG`: trains an experiment and reports it next to its baselines."""

import contextlib
import shlex
import signal
import sys
import time
from pathlib import Path

from experiments import stop
from experiments.build import build_task
from experiments.commands.train.closing import closing_words
from experiments.commands.train.options import TrainOptions
from experiments.config import ExperimentConfig
from experiments.program import PROGRAM, typed
from experiments.runs import bucket, processes
from experiments.runs.cli_options import Parsed
from experiments.runs.directory import (
    RunDirectory,
    chosen_run_directory,
    new_run_directory,
)
from experiments.runs.lock import HeldError, hold
from experiments.runs.logs import log_finished, open_logs
from experiments.runs.mesh import data_parallel
from experiments.runs.mesh_options import parse_mesh
from experiments.runs.records import read_meta, read_summary
from experiments.runs.run import (
    check_published,
    finalize_run,
    num_parameters,
    start_run,
    train_run,
)
from experiments.status import doing, is_on
from experiments.stop import Stopped
from experiments.tables import model_name, print_report
from gru_jax import training


def main(parsed: Parsed[TrainOptions]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when the run is finished, 1 when it failed and can be resumed, 130 after
        Ctrl-C, 143 after SIGTERM.

    Raises:
        UserError: invalid config, data or run directory; nothing was written.
    """
    return processes.run(parsed.options, lambda: _main(parsed))


def _main(parsed: Parsed[TrainOptions]) -> int:
    options = parsed.options
    with contextlib.ExitStack() as stack:
        run = processes.in_first(lambda: _run_directory(parsed.path.stem, options, stack))
        if run is None:
            # One process of several, which --distributed demands --run-dir of.
            assert options.run_dir is not None
            url = bucket.url_of(options.run_dir)
            folder = stack.enter_context(bucket.stand_in(url)) if url else options.run_dir
            run = RunDirectory(folder)
        if processes.of_first(run.is_finished()):
            processes.in_first(lambda: _show_finished(run, parsed))
            return 0
        try:
            return _train(run, parsed)
        except (training.TrainingError, OSError) as error:
            print(f"{bucket.named(str(error))}\n{_how_to_resume(run, parsed)}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            return _stopped(stopped.signal, run, parsed)
        except KeyboardInterrupt:
            return _stopped(signal.SIGINT, run, parsed)


def _show_finished(run: RunDirectory, parsed: Parsed[TrainOptions]) -> None:
    if parsed.options.logs:
        log_finished(run, parsed.options.config, parsed.options.logs)
    _print_result(run, parsed.path, parsed.options.config)


def _run_directory(
    name: str, options: TrainOptions[ExperimentConfig], stack: contextlib.ExitStack
) -> RunDirectory:
    """Returns the directory of the run; the stack holds it, unless it is only read."""
    if options.run_dir is not None:
        if url := bucket.url_of(options.run_dir):
            folder = stack.enter_context(bucket.work_on(url))
            return chosen_run_directory(folder, options.config, options.resume)
        run = chosen_run_directory(options.run_dir, options.config, options.resume)
        if not run.is_finished() or options.logs:
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
        task = build_task(config, options.data_dir)
    check_published(config, task)
    mesh = None if options.mesh is None else parse_mesh(options.mesh, ("data",))
    parallel = data_parallel(mesh, config)
    stop.check()
    meta = processes.in_first(lambda: start_run(run, task, config, parsed.command))
    if meta is not None:
        model = f"{model_name(config.model)}, {num_parameters(task.params):,} parameters"
        print(f"{model}, in {bucket.original(run.path)}", flush=True)
        if task.data is not None:
            print("\n".join(task.data.sentences), flush=True)
    stop.check()
    # A run that was stopped before its first checkpoint has a directory, but nothing to resume.
    resume = "auto" if options.resume == "must" else options.resume
    with open_logs(run, config, options.logs) as logs:
        with doing("Compiling the training step") as say:
            result = train_run(
                run,
                task,
                config,
                resume,
                log=logs.writer,
                parallel=parallel,
                say=say if is_on() else None,
            )
        if result.status == "interrupted":
            logs.close("interrupted")
            return _stopped(result.signal or signal.SIGINT, run, parsed)
        with doing("Testing, drawing plots, and computing baselines"):
            test = task.evaluate(result.best_params, "test")
            if meta is not None:
                finalize_run(run, task, config, result, meta, started, test)
                logs.add_results(run)
    if meta is not None:
        _print_result(run, parsed.path, config)
    return 0


def _print_result(run: RunDirectory, path: Path, config: ExperimentConfig) -> None:
    print_report(read_summary(run), read_meta(run), config.published)
    for text in sorted(run.plots.glob("*.txt")):
        print(f"{bucket.original(text)}:\n\n{text.read_text(encoding='utf-8')}")
    for plot in sorted(run.plots.glob("*.png")):
        print(bucket.original(plot))
    print(f"\n{closing_words(run, path, config)}")


def _stopped(received: signal.Signals, run: RunDirectory, parsed: Parsed[TrainOptions]) -> int:
    """Prints how to resume, and returns the exit code."""
    if processes.is_first():
        how = _how_to_resume(run, parsed)
        print(f"Stopped by {stop.name_of(received)}. {how}", file=sys.stderr)
    return 128 + received


def _how_to_resume(run: RunDirectory, parsed: Parsed[TrainOptions]) -> str:
    options = parsed.options
    if not run.config.exists():
        return "Nothing was written."
    if bucket.is_written(run.path):
        # Its config is no file of this machine.
        return f"To resume: {typed()}{parsed.command.removeprefix(PROGRAM)}"
    again = [str(run.config), "--run-dir", str(run.path), "--data-dir", str(options.data_dir)]
    again += ["--tensorboard"] * options.tensorboard
    again += ["--log", options.log] if options.log is not None else []
    again += ["--mesh", options.mesh] if options.mesh is not None else []
    command = f"To resume: {typed()} train {shlex.join(again)}"
    return f"{command} with --distributed in each process" if options.distributed else command
