"""The command `gradients DIRECTORY`: norms of a loss's gradient through time, by cell."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.markdown import markdown_table
from experiments.plots import save
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.provenance import provenance
from experiments.runs.run import restore_best
from experiments.tasks import adding

DISTANCES = (0, 10, 50, 100, 200, 400)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the norm of d loss_T / d h_t, on runs of `compare` on the adding problem.

    The loss is that of the last step T. Its gradient with respect to the state after step t shows
    how much the network can learn about that step. It is measured on test sequences, before and
    after training.
    """

    directory: Annotated[Path, tyro.conf.Positional]
    """Output directory of `compare`: runs/compare/adding."""
    sequences: int = 100
    """Test sequences to average the norms over."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0, the exit code.

    Raises:
        UserError: a directory without finished runs of the adding problem.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments gradients")
    runs = [
        RunDirectory(path.parent) for path in sorted(options.directory.glob("*/s*/config.yaml"))
    ]
    runs = [run for run in runs if run.is_finished()]
    if not runs:
        raise UserError(
            f"{options.directory} holds no finished runs. "
            "`python -m experiments compare configs/adding.yaml` makes them."
        )
    norms: dict[str, dict[str, list[np.ndarray]]] = {}
    for run in runs:
        of_cell = norms.setdefault(run.path.parent.name, {"before": [], "after": []})
        before, after = _norms(run, options)
        of_cell["before"].append(before)
        of_cell["after"].append(after)
    curves = {
        cell: {when: _mean(of_runs) for when, of_runs in of_cell.items()}
        for cell, of_cell in norms.items()
    }
    markdown = to_markdown(curves)
    result = {**provenance(), "norms": _plain(curves)}
    write_json(options.directory / "gradients.json", result)
    write_atomically(options.directory / "gradients.md", markdown)
    plot(curves, options.directory / "gradients.png")
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {options.directory / 'gradients.png'}")
    return 0


def _norms(run: RunDirectory, options: Options) -> tuple[np.ndarray, np.ndarray]:
    config: Any = load_config(run.config)
    if config.task != "adding":
        raise UserError(f"{run.path} is a run of {config.task}, but should be one of adding.")
    task, best = restore_best(run, config, options.data_dir)
    test = adding.sample_sums(options.sequences, config.length, (adding.TEST,))
    network = adding.make_network(config)
    return (
        adding.gradient_norms(network, task.params, test),
        adding.gradient_norms(network, best, test),
    )


def _mean(norms: list[np.ndarray]) -> np.ndarray:
    """Returns the geometric mean over the seeds of norms relative to the last step's, (T,)."""
    relative = [norm / norm[-1] for norm in norms]
    # Norms that underflow in float32 are 0, which has no logarithm.
    return np.exp(np.mean(np.log(np.maximum(relative, np.finfo(np.float32).tiny)), axis=0))


def _plain(curves: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    return {
        cell: {when: [float(value) for value in norms] for when, norms in of_cell.items()}
        for cell, of_cell in curves.items()
    }


def to_markdown(curves: dict[str, dict[str, np.ndarray]]) -> str:
    """Returns a table of the norms at some distances, relative to that at the last step."""
    length = len(next(iter(curves.values()))["before"])
    distances = [*(distance for distance in DISTANCES if distance < length - 1), length - 1]
    header = ["T - t", *map(str, distances)]
    rows = [
        [f"{cell.upper()}, {when} training", *(f"{norms[-1 - d]:.1e}" for d in distances)]
        for cell, of_cell in curves.items()
        for when, norms in of_cell.items()
    ]
    tiny = np.finfo(np.float32).tiny
    return (
        "Norm of d loss_T / d h_t, as a multiple of that at t = T, geometric mean over the seeds; "
        f"{tiny:.1e} means that it underflows in float32:\n\n{markdown_table(header, rows)}\n"
    )


def plot(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Plots the norms over the distance from the last step."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for color, (cell, of_cell) in enumerate(curves.items()):
        for when, style in (("before", ":"), ("after", "-")):
            norms = of_cell[when]
            distance = np.arange(len(norms))[::-1]
            label = f"{cell.upper()}, {when} training"
            axes.plot(distance, norms, style, color=f"C{color}", label=label)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-12)
    axes.set_xlabel("steps back from the loss, T - t")
    axes.set_ylabel("norm of d loss_T / d h_t, multiple of that at T")
    axes.set_title("Gradients through time, adding problem")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save(figure, path)
