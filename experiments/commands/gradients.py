"""The command `gradients DIRECTORY`: norms of a loss's gradient through time, by cell."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import command_help
from experiments.config import ExperimentConfig
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.markdown import markdown_table, write_report
from experiments.models.state_gradients import LastStepLoss, gradient_norms
from experiments.plots import save
from experiments.program import PROGRAM
from experiments.runs import bucket
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.provenance import provenance
from experiments.runs.records import read_summary
from experiments.runs.run import restore_best
from experiments.task import Task

TABLE_DISTANCES = (0, 10, 50, 100, 200, 500)
PLOT_DISTANCES = 50
LEARNED = 0.9
WHEN = {"before": "at initialisation", "after": "after training"}

CONCLUSIONS = """\
What follows: the norm says how strongly the loss depends on an earlier state, with these weights. \
Where a net has learned, a norm that stays large shows that its weights carry gradients over that \
distance. At initialisation it shows what the first steps of training can use.

What does not follow: the reach of gradients is a property of the weights, not of the cell alone. \
Training changes it, so a small norm at initialisation does not show that a cell cannot learn. A \
small norm after training in a net that has not learned is a consequence, not an explanation, \
unless the net at initialisation has it, too: a state that the net does not use has no gradient."""

Result = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the norm of d loss_T / d h_t, on runs of `compare` on the tasks adding and copy.

    The loss is that of the last step T. Its gradient with respect to the state after step t shows
    how strongly it depends on that state. It is measured on test sequences, at initialisation and
    after training.
    """

    directory: Annotated[Path, tyro.conf.Positional]
    """Output directory of `compare`: runs/compare/adding; or a URL, gs://BUCKET/PATH."""
    sequences: int = 100
    """Test sequences to average the norms over."""
    output: Path | None = None
    """Directory of the table and the plot; the default is that of the runs, unless those are in a
    bucket."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0, the exit code.

    Raises:
        UserError: a directory without runs, with unfinished ones, or with runs of a task that has
            no loss of the last step.
    """
    options = command_help.parse(Options, arguments, "gradients", "runs/compare/adding")
    if options.sequences < 1:
        raise UserError(f"--sequences is {options.sequences}, but should be 1 or more.")
    bucket.check_output(options.directory, options.output)
    with bucket.read_copy(options.directory) as folder:
        measured = [_measure(run, options) for run in _finished_runs(folder)]
    cells: dict[str, dict[str, list[Any]]] = {}
    for cell, of_run, _ in measured:
        of_cell = cells.setdefault(cell, {name: [] for name in of_run})
        for name, value in of_run.items():
            of_cell[name].append(value)
    # All runs of a comparison have the same task, length and test sequences.
    _, _, common = measured[0]
    result = {
        "command": f"{PROGRAM} gradients {bucket.original(options.directory)}",
        "name": options.directory.name,
        **provenance(),
        **common,
        "cells": cells,
    }
    output = options.output or options.directory
    write_report(output, "gradients", result, to_markdown(result))
    plot(result, output / "gradients.png")
    return 0


def _measure(run: RunDirectory, options: Options) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Returns the cell of a run, what was measured, and what all runs have in common."""
    config: ExperimentConfig = load_config(run.config)
    task, best = restore_best(run, config, options.data_dir)
    loss = _first_sequences(task, config, run, options.sequences)
    of_run = {
        "seeds": config.seed,
        "test": read_summary(run)["test"][task.loss_metric],
        "before": _relative_norms(loss, task.params),
        "after": _relative_norms(loss, best),
    }
    common = {
        "loss": loss.description,
        "sequences": len(loss.inputs),
        "metric": task.metric_labels[task.loss_metric],
        "baseline": {
            "name": loss.baseline,
            "value": task.evaluate_baselines()[loss.baseline][task.loss_metric],
        },
        "distances": _distances(loss.inputs.shape[1]).tolist(),
    }
    return config.model.cell, of_run, common


def _finished_runs(directory: Path) -> list[RunDirectory]:
    """Returns the runs of a comparison.

    Raises:
        UserError: there are none, or some are not finished.
    """
    runs = [RunDirectory(path.parent) for path in directory.glob("*/s*/config.yaml")]
    if not runs:
        raise UserError(f"{directory} holds no runs. `{PROGRAM} compare adding` makes them.")
    runs.sort(key=lambda run: (run.path.parent.name, int(run.path.name[1:])))
    unfinished = [str(run.path) for run in runs if not run.is_finished()]
    if unfinished:
        raise UserError(
            f"{', '.join(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not finished. "
            "Call `compare` again to resume."
        )
    return runs


def _first_sequences(
    task: Task, config: ExperimentConfig, run: RunDirectory, number: int
) -> LastStepLoss:
    loss = task.last_step_loss
    if loss is None:
        raise UserError(
            f"{run.path} is a run of {config.task}, but should be one of adding or copy."
        )
    return dataclasses.replace(loss, inputs=loss.inputs[:number], targets=loss.targets[:number])


def _distances(length: int) -> np.ndarray:
    """Returns the distances T - t at which norms are kept, ascending."""
    evenly = np.linspace(0, length - 1, PLOT_DISTANCES + 1).round().astype(int)
    return np.unique([*evenly, *(d for d in TABLE_DISTANCES if d < length)])


def _relative_norms(loss: LastStepLoss, params: Any) -> list[float | None]:
    """Returns norms by distance, as multiples of that at T; None where they overflow."""
    norms = gradient_norms(loss, params)
    relative = norms[::-1] / norms[-1]
    return [
        float(f"{value:.4g}") if np.isfinite(value) else None
        for value in relative[_distances(len(norms))]
    ]


def to_markdown(result: Result) -> str:
    """Returns what was measured, what the runs have learned, the norms, and what follows."""
    metric, baseline = result["metric"], result["baseline"]
    learned = [
        [
            cell.upper(),
            f"{_geometric_mean(of_cell['test']):.2e}",
            f"{min(of_cell['test']):.2e} to {max(of_cell['test']):.2e}",
            f"{baseline['value']:.2e}",
            f"{_learned(of_cell, baseline)} of {len(of_cell['seeds'])}",
        ]
        for cell, of_cell in result["cells"].items()
    ]
    distances = result["distances"]
    shown = [d for d in distances if d in TABLE_DISTANCES or d == distances[-1]]
    norms = [
        [
            f"{cell.upper()}, {text}",
            *(_norm_text([norms[distances.index(d)] for norms in of_cell[when]]) for d in shown),
        ]
        for cell, of_cell in result["cells"].items()
        for when, text in WHEN.items()
    ]
    return (
        "\n\n".join(
            [
                f"{result['name']}: reach of gradients through time, by `{result['command']}`. "
                f"The loss is {result['loss']}, on {result['sequences']} test sequences.",
                "Have the runs learned? A run counts if its test metric is at least "
                f"{1 - LEARNED:.0%} below the baseline, {baseline['name']}. Geometric mean and "
                "range over the seeds:",
                markdown_table(
                    ["cell", f"test {metric}", "range", baseline["name"], "runs that have learned"],
                    learned,
                ),
                "Norm of d loss_T / d h_t, as a multiple of that at t = T, geometric mean over the "
                "seeds. The state of an LSTM is (h, c). Underflow: the norm is below the smallest "
                f"normal float32 number, {np.finfo(np.float32).tiny:.1e}.",
                markdown_table(["T - t", *map(str, shown)], norms),
                CONCLUSIONS,
            ]
        )
        + "\n"
    )


def _learned(of_cell: Result, baseline: Result) -> int:
    """Returns how many runs of a cell have learned something."""
    return sum(value <= LEARNED * baseline["value"] for value in of_cell["test"])


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _norm_text(of_seeds: Sequence[float | None]) -> str:
    """Returns the geometric mean, or in how many of the seeds there is none to take."""
    finite = [norm for norm in of_seeds if norm is not None]
    if len(finite) < len(of_seeds):
        return "overflow"
    underflows = finite.count(0)
    if not underflows:
        return f"{_geometric_mean(finite):.1e}"
    some = f" in {underflows} of {len(finite)}" if underflows < len(finite) else ""
    return f"underflow{some}"


def plot(result: Result, path: Path) -> None:
    """Plots the norms over the distance from the last step, at initialisation and trained.

    Lines are geometric means over the seeds, bands reach from the least to the greatest.
    """
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (when, text) in zip(panels, WHEN.items(), strict=True):
        for color, (cell, of_cell) in enumerate(result["cells"].items()):
            # A logarithmic axis has no place for 0. Overflow leaves a gap.
            norms = np.maximum(np.array(of_cell[when], float), np.finfo(np.float32).tiny)
            label = cell.upper()
            if when == "after":
                learned = _learned(of_cell, result["baseline"])
                label += f", {learned} of {len(norms)} runs have learned"
            style = {"color": f"C{color}"}
            panel.plot(
                result["distances"], np.exp(np.log(norms).mean(axis=0)), label=label, **style
            )
            panel.fill_between(
                result["distances"],
                norms.min(axis=0),
                norms.max(axis=0),
                alpha=0.2,
                linewidth=0,
                **style,
            )
        panel.set_title(text)
        panel.set_xlabel("steps back from the loss, T - t")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=max(panels[0].get_ylim()[0], 1e-12))
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("norm of d loss_T / d h_t,\nmultiple of that at T")
    figure.suptitle(
        f"Gradients through time, {result['name']}: geometric mean and range over the seeds"
    )
    save(figure, path)
