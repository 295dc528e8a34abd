"""The learning curves of all runs of an experiment, a plot for each metric."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments.report.collect import RunRecord

LARGEST = 1e300
SHARED = ("step", "split", "seconds", "steps_per_second")
# In inches; the text of a plot of this width can be read on a phone.
SIZE = (4.8, 3.2)


class Curves(NamedTuple):
    """A plot of one metric of all runs: what it shows, and the PNG."""

    caption: str
    image: bytes


def plot_curves(runs: Sequence[RunRecord]) -> list[Curves]:
    """Plots the training loss and each validation metric over the steps.

    Each model has its own colour. Unfinished runs have dashed lines.
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
    return [
        Curves(_caption(runs, split, name), _plot(runs, split, name))
        for split, name in panels
        if any(_series(run.rows, split, name)[0] for run in runs)
    ]


def _caption(runs: Sequence[RunRecord], split: str, name: str) -> str:
    metric = f"{'Training' if split == 'train' else 'Validation'} {name.replace('_', ' ')}"
    number = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    dashed = "" if all(run.summary for run in runs) else " Unfinished runs have dashed lines."
    return f"{metric} over the steps, of {number}.{dashed}"


def _plot(runs: Sequence[RunRecord], split: str, name: str) -> bytes:
    colors = {model: f"C{n}" for n, model in enumerate(dict.fromkeys(run.model for run in runs))}
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    lowest, highest, labelled = [], [], set()
    for run in runs:
        steps, values = _series(run.rows, split, name)
        if not steps:
            continue
        label = run.model if run.summary else f"{run.model}, unfinished"
        axes.plot(
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
    if min(lowest) > 0 and max(highest) > 10 * min(lowest):
        axes.set_yscale("log")
    which = "training" if split == "train" else split
    axes.set(xlabel="step", ylabel=f"{which} {name.replace('_', ' ')}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=160)
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
