"""The learning curves of all runs of an experiment in one plot."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.report.collect import RunRecord

LARGEST = 1e300
SHARED = ("step", "split", "seconds", "steps_per_second")


def plot_curves(runs: Sequence[RunRecord]) -> bytes | None:
    """Plots the training loss and each validation metric over the steps.

    Each model has its own colour. Unfinished runs have dashed lines.

    Returns:
        The PNG, or None if no run has metrics.
    """
    names = dict.fromkeys(
        name
        for run in runs
        for row in run.rows
        if row.get("split") == "validation"
        for name in row
        if name not in SHARED
    )
    panels = [("train", "loss"), *(("validation", name) for name in names)]
    panels = [panel for panel in panels if any(_series(run.rows, *panel)[0] for run in runs)]
    if not panels:
        return None
    colors = {model: f"C{n}" for n, model in enumerate(dict.fromkeys(run.model for run in runs))}
    figure = Figure(figsize=(7.5, 0.8 + 2.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (split, name) in zip(axes, panels, strict=True):
        lowest, highest, later, labelled = [], [], [], set()
        for run in runs:
            steps, values = _series(run.rows, split, name)
            if not steps:
                continue
            label = run.model if run.summary else f"{run.model}, unfinished"
            panel.plot(
                steps,
                values,
                "-" if run.summary else "--",
                marker="." if len(steps) == 1 else "",
                linewidth=1,
                alpha=0.8,
                color=colors[run.model],
                label="_" if label in labelled else label,
            )
            labelled.add(label)
            lowest.append(min(values))
            highest.append(max(values))
            later.append(max(values[len(values) // 10 :]))
        if min(lowest) > 0 and max(highest) > 10 * min(lowest):
            panel.set_yscale("log")
        elif max(highest) > 2 * max(later) > 0:
            # The first values are far higher, and would squeeze the rest of the curves.
            margin = (max(later) - min(lowest) or max(later)) / 10
            panel.set_ylim(min(lowest) - margin, max(later) + margin)
        panel.set_ylabel(f"{'training' if split == 'train' else split}\n{name.replace('_', ' ')}")
        panel.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize="small")
    axes[-1].set_xlabel("step")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _series(
    rows: Sequence[Mapping[str, Any]], split: str, metric: str
) -> tuple[list[int], list[float]]:
    """Returns the steps and values of a metric, without values that cannot be plotted."""
    chosen = [
        (row["step"], row[metric])
        for row in rows
        if row.get("split") == split
        and isinstance(row.get(metric), int | float)
        and abs(row[metric]) < LARGEST
    ]
    return [step for step, _ in chosen], [value for _, value in chosen]
