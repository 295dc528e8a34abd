"""Validation metrics of a comparison over the steps of training, mean and deviation over runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots import save

Rows = Sequence[Mapping[str, Any]]


def plot_curves(result: Mapping[str, Any], rows: Mapping[str, Sequence[Rows]], path: Path) -> None:
    """Plots each test metric on the validation split, a line for each model.

    A step is left out where a run of the model has no value.

    Args:
        result: the content of `compare.json`.
        rows: for each cell, the rows of `metrics.jsonl` of its runs.
        path: the PNG to write.
    """
    metrics = list(result["models"][0]["test"])
    figure = Figure(figsize=(6.5, 1 + 2.6 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        for index, model in enumerate(result["models"]):
            steps, values = validation_values(rows[model["cell"]], metric)
            if steps:
                _plot_band(panel, steps, values, f"C{index}", model["model"])
        panel.set_ylabel(f"validation {metric.replace('_', ' ')}")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(frameon=False, fontsize="small")
            values = np.concatenate([line.get_ydata() for line in panel.lines])
            if 0 < 100 * values.min() < values.max():
                panel.set_yscale("log")
    panels[-1].set_xlabel("step")
    figure.suptitle(f"{result['name']}: validation, mean and deviation over the seeds")
    save(figure, path)


def validation_values(runs: Sequence[Rows], metric: str) -> tuple[list[int], np.ndarray]:
    """Returns the steps at which all runs have a finite value, and the values (runs, steps)."""
    of_runs = [
        {
            row["step"]: row[metric]
            for row in rows
            if row.get("split") == "validation" and _is_finite(row.get(metric))
        }
        for rows in runs
    ]
    steps = sorted(set.intersection(*map(set, of_runs))) if of_runs else []
    return steps, np.array([[of_run[step] for step in steps] for of_run in of_runs])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _plot_band(
    panel: Axes, steps: Sequence[int], values: np.ndarray, color: str, label: str
) -> None:
    mean = values.mean(axis=0)
    marker = "." if len(steps) == 1 else ""
    panel.plot(steps, mean, color=color, label=label, marker=marker)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        panel.fill_between(
            steps, mean - deviation, mean + deviation, alpha=0.2, color=color, linewidth=0
        )
