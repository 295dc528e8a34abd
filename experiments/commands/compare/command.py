"""Trains the missing runs of all cells and seeds, and writes a table and a plot."""

import contextlib
import dataclasses
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import stop
from experiments.build import build_task
from experiments.commands.compare import report
from experiments.commands.compare.averages import AveragedValues, average, averaged_values
from experiments.commands.compare.curves import plot_curves
from experiments.commands.compare.options import MESH_AXES, CompareOptions, listed_cells
from experiments.commands.compare.search import search_cells, write_search
from experiments.commands.compare.sizes import count_parameters, with_row
from experiments.commands.compare.vmapped_training import PlannedRun, train_vmapped
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs import bucket
from experiments.runs.cli_options import Parsed
from experiments.runs.config_loading import with_values
from experiments.runs.directory import RunDirectory, chosen_run_directory
from experiments.runs.lock import hold
from experiments.runs.log_options import TENSORBOARD
from experiments.runs.logs import log_finished, open_logs
from experiments.runs.mesh import data_parallel, make_mesh
from experiments.runs.mesh_options import parse_mesh
from experiments.runs.provenance import provenance
from experiments.runs.records import read_meta, read_summary
from experiments.runs.run import (
    check_published,
    finalize_run,
    num_parameters,
    start_run,
    train_run,
)
from experiments.stop import Stopped
from experiments.tables import model_name
from gru_jax import training

GROUP_PREFIX = "vmapped"
# Maximum parameters of a network whose seeds are vmapped by default. A larger network keeps the
# machine busy by itself: on two cores, three seeds in sequence took 1.5 times as long as vmapped
# ones with 8 units, as long with 46, and less with large batches.
MAX_VMAPPED_PARAMETERS = 30_000
Plans = dict[str, dict[str, tuple[list[RunDirectory], list[ExperimentConfig]]]]


def main(parsed: Parsed[CompareOptions]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when all runs are finished, 1 when one failed, 130 after Ctrl-C, 143
        after SIGTERM.

    Raises:
        UserError: invalid config, data or directory.
    """
    options = parsed.options
    output = options.output or Path("runs", "compare", parsed.path.stem)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(output))
        if options.source is not None:
            source = stack.enter_context(bucket.read_copy(options.source))
            options = dataclasses.replace(options, source=source)
        return _compare(options, parsed.path.stem, output, parsed.command)


def _compare(options: CompareOptions[Any], name: str, output: Path, command: str) -> int:
    """Searches, trains and writes the results; returns the exit code."""
    config, cells = options.config, listed_cells(options)
    averaged = averaged_values(config, options.average_over)
    try:
        if options.search:
            received, found = search_cells(
                config,
                cells,
                output,
                num_trials=options.trials,
                data_dir=options.data_dir,
                command=command,
            )
            if received is not None:
                return _stopped(received, command)
            write_search(found, config, output, name=name, command=command)
            chosen = {cell: of_cell["chosen"] for cell, of_cell in found.items()}
            # A variant is of the config's own cell, which may not be among those searched now.
            config = config.model_copy(update={"cells": {**config.cells, **chosen}})
        plans = _plan(config, cells, averaged, options.source or output, options)
        if options.source is not None:
            _check_finished(plans)
        for of_value in plans.values():
            for runs, configs in of_value.values():
                received = _train_missing(runs, configs, options, command)
                if received is not None:
                    return _stopped(received, command)
    except Stopped as stopped:
        return _stopped(stopped.signal, command)
    except (training.TrainingError, OSError) as error:
        print(f"{error}\nTo resume: {command}", file=sys.stderr)
        return 1
    _write(output, name, plans, averaged, config, options, command)
    return 0


def _check_finished(plans: Plans) -> None:
    """Raises UserError if a run is not finished."""
    runs = [run for of_value in plans.values() for runs, _ in of_value.values() for run in runs]
    unfinished = [str(run.path) for run in runs if not run.is_finished()]
    if unfinished:
        raise UserError(
            f"{len(unfinished)} of {len(runs)} runs are not finished, the first of them "
            f"{unfinished[0]}. --from needs finished runs of all cells and seeds."
        )


def _stopped(received: signal.Signals, command: str) -> int:
    """Prints how to resume, and returns the exit code."""
    print(f"Stopped by {stop.name_of(received)}. To resume: {command}", file=sys.stderr)
    return 128 + received


def _plan(
    config: ExperimentConfig,
    cells: list[str],
    averaged: AveragedValues | None,
    output: Path,
    options: CompareOptions[Any],
) -> Plans:
    """Returns the runs of all seeds and their configs, by averaged value and cell.

    Without a field to average over, the only value is an empty string, and the runs of a cell are
    in OUTPUT/CELL.
    """
    plans: Plans = {}
    for value in averaged.values if averaged else [""]:
        changes = {averaged.field: value} if averaged else {}
        of_value = with_values(config, changes, where="--average-over")
        plans[value] = {}
        for cell in [*cells, *config.variants]:
            of_cell = with_row(of_value, cell, options.data_dir)
            configs = [
                of_cell.model_copy(update={"seed": seed})
                for seed in range(config.seed, config.seed + options.seeds)
            ]
            runs = [
                chosen_run_directory(
                    output / value / cell.replace(" ", "-") / f"s{of_seed.seed}", of_seed, "auto"
                )
                for of_seed in configs
            ]
            plans[value][cell] = runs, configs
    return plans


def _train_missing(
    runs: list[RunDirectory],
    configs: list[ExperimentConfig],
    options: CompareOptions[Any],
    command: str,
) -> signal.Signals | None:
    """Trains the unfinished runs of one cell; returns the signal that stopped it, or None."""
    missing = [
        (run, config) for run, config in zip(runs, configs, strict=True) if not run.is_finished()
    ]
    logs = (TENSORBOARD,) if options.tensorboard else ()
    for run, config in zip(runs, configs, strict=True):
        if logs and run.is_finished():
            log_finished(run, config, logs)
    if not missing:
        return None
    mesh = {} if options.mesh is None else parse_mesh(options.mesh, MESH_AXES)
    vmapped = True if "seed" in mesh else options.vmap_seeds
    if vmapped is None:
        vmapped = count_parameters(configs[0], options.data_dir) <= MAX_VMAPPED_PARAMETERS
    # With early stopping, each run ends at another step. A trace is one of a single run.
    of_training = configs[0].training
    vmapped &= of_training.patience is None and of_training.profile_steps is None
    group = _group(runs, configs) if vmapped else None
    if group is not None:
        missing = group[1]
    planned = [
        PlannedRun(run, config, build_task(config, options.data_dir)) for run, config in missing
    ]
    check_published(planned[0].config, planned[0].task)
    first, seeds = planned[0], [plan.config.seed for plan in planned]
    print(
        f"{model_name(first.config.model)}, {num_parameters(first.task.params):,} parameters, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    )
    if group is not None:
        with contextlib.ExitStack() as stack:
            for plan in planned:
                stack.enter_context(hold(plan.run.path))
            # Fewer than all seeds are missing when others were finished by an earlier call.
            sizes = mesh and {**mesh, "seed": math.gcd(mesh.get("seed", 1), len(seeds))}
            if sizes.get("seed", 1) < mesh.get("seed", 1):
                print(f"The seeds that are missing are spread over {sizes['seed']} devices.")
            return train_vmapped(
                planned,
                RunDirectory(group[0]),
                command,
                logs,
                make_mesh(sizes) if sizes else None,
            )
    for plan in planned:
        stop.check()
        with hold(plan.run.path):
            received = _train_run(plan, options, logs, command)
        if received is not None:
            return received
    return None


def _train_run(
    plan: PlannedRun, options: CompareOptions[Any], logs: tuple[str, ...], command: str
) -> signal.Signals | None:
    """Trains one run; returns the signal that stopped it, or None."""
    started = time.monotonic()
    meta = start_run(plan.run, plan.task, plan.config, command)
    sizes = {} if options.mesh is None else parse_mesh(options.mesh, MESH_AXES)
    parallel = data_parallel({"data": sizes["data"]}, plan.config) if "data" in sizes else None
    with open_logs(plan.run, plan.config, logs) as opened:
        result = train_run(
            plan.run, plan.task, plan.config, "auto", log=opened.writer, parallel=parallel
        )
    if result.status == "interrupted":
        return result.signal
    finalize_run(plan.run, plan.task, plan.config, result, meta, started)
    return None


def _group(
    runs: list[RunDirectory], configs: list[ExperimentConfig]
) -> tuple[Path, list[tuple[RunDirectory, ExperimentConfig]]] | None:
    """Returns the directory of the runs to train as one vmapped program, and those runs.

    If the missing runs belong to an interrupted group, returns that group. Returns None if only
    one run is missing.
    """
    by_seed = {config.seed: (run, config) for run, config in zip(runs, configs, strict=True)}
    missing = [seed for seed, (run, _) in by_seed.items() if not run.is_finished()]
    parent = runs[0].path.parent
    for path in sorted(parent.glob(f"{GROUP_PREFIX}-*")):
        seeds = [int(seed) for seed in path.name.split("-")[1:]]
        if set(missing) <= set(seeds) <= set(by_seed):
            return path, [by_seed[seed] for seed in seeds]
    if len(missing) < 2:
        return None
    name = "-".join([GROUP_PREFIX, *map(str, missing)])
    return parent / name, [by_seed[seed] for seed in missing]


def _write(
    output: Path,
    name: str,
    plans: Plans,
    averaged: AveragedValues | None,
    config: ExperimentConfig,
    options: CompareOptions[Any],
    command: str,
) -> None:
    summaries, metas = (
        {
            value: {cell: [read(run) for run in runs] for cell, (runs, _) in of_value.items()}
            for value, of_value in plans.items()
        }
        for read in (read_summary, read_meta)
    )
    result = {
        "command": command,
        "name": name,
        **provenance(),
        "runs": _revisions(metas),
        "parameter_budget": count_parameters(config, options.data_dir),
        **report.gather(
            average(list(summaries.values())),
            average(list(metas.values())),
            config.published,
            {**config.cells, **config.variants},
        ),
    }
    if averaged:
        result["average_over"] = {
            "field": averaged.field,
            "values": {value: report.test_metrics(summaries[value]) for value in averaged.values},
        }
    markdown = report.to_markdown(result)
    write_json(output / "compare.json", result)
    write_atomically(output / "compare.md", markdown)
    report.plot(result, output / "compare.png")
    plot_curves(result, _read_rows(plans), output / "curves.png")
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {output}")


def _revisions(metas: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Returns the revisions at which the runs were trained, which may be older than this one."""
    changed: dict[str, set[str]] = {}
    for of_value in metas.values():
        for of_cell in of_value.values():
            for meta in of_cell:
                files = changed.setdefault(meta.get("git_revision", "unknown"), set())
                files.update(meta.get("git_changed_files", []))
    return [
        {"git_revision": revision, "git_changed_files": sorted(files)}
        for revision, files in sorted(changed.items())
    ]


def _read_rows(plans: Plans) -> dict[str, list[list[dict[str, Any]]]]:
    """Returns the rows of metrics of each run, by cell.

    Raises:
        UserError: a file of metrics is absent or corrupted.
    """
    cells = next(iter(plans.values()))
    try:
        return {
            cell: [
                training.read_metrics(run.metrics)
                for of_value in plans.values()
                for run in of_value[cell][0]
            ]
            for cell in cells
        }
    except training.MetricsError as error:
        raise UserError(str(error)) from None
