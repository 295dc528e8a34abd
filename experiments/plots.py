"""Plots of a run, rendered without a display."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.files import write_atomically
from experiments.typing import Array


def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    loss: str,
    monitor: str,
    labels: Mapping[str, str],
    best_step: int,
    path: Path,
    *,
    train: str = "loss",
) -> None:
    """Plots the training and validation loss, and the monitored metric, over the steps.

    Args:
        rows: the rows of `metrics.jsonl`.
        loss: the validation metric that is the loss.
        monitor: the validation metric that selected the best step.
        labels: name and unit of each metric.
        best_step: the step with the best parameters.
        path: the PNG to write.
        train: the training metric that is plotted with the loss.
    """
    names = [loss] if monitor == loss else [loss, monitor]
    figure = Figure(figsize=(4.8, 1 + 2.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    _curve(panels[0], rows, "train", train, color="tab:gray", alpha=0.6, label="training")
    for panel, name in zip(panels, names, strict=True):
        _curve(panel, rows, "validation", name, color="tab:blue", label="validation")
        panel.axvline(best_step, color="black", linewidth=0.8, linestyle=":", label="best step")
        panel.set_ylabel(labels[name])
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panels[0].set_title("Learning curves")
    _, losses = _series(rows, "validation", loss)
    losses += _series(rows, "train", train)[1]
    if train == "loss" and losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        panels[0].set_yscale("log")
    panels[-1].set_xlabel("step")
    save(figure, path)


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """Plots a confusion matrix: true classes are rows, predicted ones columns."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axes = figure.add_subplot()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts > 0):
        color = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    save(figure, path)


def gate_activity(
    gates: Mapping[str, Array], inputs: Array, title: str, path: Path, *, tick_every: int
) -> None:
    """Plots gates (steps, units) as images over the steps, below the input (steps,)."""
    heights = [1] + [2.5] * len(gates)
    figure = Figure(figsize=(5.2, 0.8 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    panels[0].bar(np.arange(len(inputs)), np.asarray(inputs), width=1.0, color="black")
    panels[0].set(ylabel="input", title=title)
    for panel, (name, activity) in zip(panels[1:], gates.items(), strict=True):
        values = np.asarray(activity)
        by_mean = values[:, np.argsort(values.mean(axis=0))].T
        image = panel.imshow(by_mean, aspect="auto", cmap="viridis", vmin=0, vmax=1, origin="lower")
        panel.set_ylabel(f"{name}\nunits, by mean")
        figure.colorbar(image, ax=panel, label="activity", pad=0.01)
    panels[-1].set_xlabel("step")
    panels[-1].set_xticks(range(0, len(inputs), tick_every))
    save(figure, path)


def scatter(truth: Array, predicted: Array, title: str, path: Path) -> None:
    """Plots predicted against true values, with the line of equality."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8, linestyle=":", label="predicted = true")
    axes.scatter(truth, predicted, s=6, alpha=0.5, label="test sequences")
    axes.set(xlabel="true sum", ylabel="predicted sum", title=title, aspect="equal")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    save(figure, path)


def confidence(probabilities: np.ndarray, targets: Array, title: str, path: Path) -> None:
    """Plots class probabilities (classes, steps) over the steps, with circles at the targets."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    steps = range(len(targets))
    axes.plot(steps, targets, "o", markersize=14, fillstyle="none", color="black", label="target")
    axes.set(xlabel="step", ylabel="symbol", title=title)
    axes.legend(loc="upper right")
    figure.colorbar(image, ax=axes, label="probability")
    save(figure, path)


def attention(
    weights: np.ndarray, *, target: Sequence[str], source: Sequence[str], title: str, path: Path
) -> None:
    """Plots attention weights: target symbols are rows, source symbols columns."""
    figure = Figure(figsize=(2 + 0.35 * len(source), 1.5 + 0.3 * len(target)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="right")
    axes.set_yticks(range(len(target)), target)
    axes.set(xlabel="source", ylabel="target", title=title)
    figure.colorbar(image, ax=axes, label="attention")
    save(figure, path)


def forecasts(
    windows: Any,
    predicted: Mapping[str, np.ndarray],
    columns: Sequence[tuple[str, int]],
    title: str,
    path: Path,
    *,
    steps: str = "hours",
    unit: str = ", standardised",
) -> None:
    """Plots forecasts and truth: a row per column, a panel per window.

    Args:
        windows: `inputs` (N, window, columns) and `targets` (N, horizon, columns).
        predicted: by model, forecasts of the shape of `targets`.
        columns: names and indices of the columns to plot.
        title: of the plot.
        path: the PNG to write.
        steps: label of the steps.
        unit: of the columns, after their names.
    """
    number, window = windows.inputs.shape[:2]
    horizon = windows.targets.shape[1]
    figure = Figure(figsize=(4.2 * number, 1 + 2.3 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), number, sharex=True, sharey="row", squeeze=False)
    before, ahead = np.arange(-window + 1, 1), np.arange(1, horizon + 1)
    for row, (name, column) in zip(panels, columns, strict=True):
        for index, panel in enumerate(row):
            panel.plot(before, windows.inputs[index, :, column], color="gray", label="input")
            panel.plot(ahead, windows.targets[index, :, column], color="black", label="truth")
            for model, values in predicted.items():
                panel.plot(ahead, values[index, :, column], label=model)
            panel.axvline(0, color="gray", linewidth=0.8, linestyle=":")
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"{name}{unit}")
    panels[0, 0].legend(frameon=False, fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel(steps)
    figure.suptitle(title)
    save(figure, path)


def gaps(
    given: np.ndarray,
    hidden: np.ndarray,
    filled: Mapping[str, np.ndarray],
    columns: Sequence[tuple[str, int]],
    path: Path,
) -> None:
    """Plots windows with gaps: a row per column, a panel per window.

    Args:
        given, hidden: values that a model reads and those it does not, (N, window, columns), NaN
            for all others.
        filled: by model, values of the same shape.
        columns: names and indices of the columns to plot.
        path: the PNG to write.
    """
    number, window = given.shape[:2]
    figure = Figure(figsize=(4.2 * number, 1 + 2.3 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), number, sharex=True, sharey="row", squeeze=False)
    steps = np.arange(window)
    for row, (name, column) in zip(panels, columns, strict=True):
        for index, panel in enumerate(row):
            panel.plot(
                steps, given[index, :, column], "o", markersize=3, color="gray", label="given"
            )
            panel.plot(
                steps, hidden[index, :, column], "o", markersize=3, color="black", label="hidden"
            )
            for model, values in filled.items():
                panel.plot(steps, values[index, :, column], linewidth=1, label=model)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(name)
    panels[0, 0].legend(frameon=False, fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("step")
    figure.suptitle(f"Hidden values of {number} test windows")
    save(figure, path)


def film_strip(rows: Mapping[str, np.ndarray], title: str, path: Path) -> None:
    """Plots films as rows of frames in [0, 1]; shorter ones are aligned with the last frames.

    Args:
        rows: by label, a film (frames, height, width).
        title: of the plot.
        path: the PNG to write.
    """
    length = max(map(len, rows.values()))
    figure = Figure(figsize=(1.4 + 0.55 * length, 0.6 + 0.52 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), length, squeeze=False)
    for row, (name, film) in zip(panels, rows.items(), strict=True):
        row[0].text(-0.15, 0.5, name, ha="right", va="center", transform=row[0].transAxes)
        missing = length - len(film)
        for panel in row[:missing]:
            panel.set_axis_off()
        for panel, frame in zip(row[missing:], film, strict=True):
            panel.imshow(frame, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
    for number, panel in enumerate(panels[0], 1):
        panel.set_title(str(number), fontsize="small", pad=2)
    figure.suptitle(title)
    save(figure, path)


def piano_roll(
    played: np.ndarray,
    predicted: np.ndarray,
    lowest_note: int,
    title: str,
    path: Path,
) -> None:
    """Plots a piece (frames, keys) above the predicted probabilities of its frames.

    Args:
        played: 1 where a key sounds.
        predicted: probability that the key sounds, given the frames before.
        lowest_note: the MIDI number of the first key.
        title: of the plot.
        path: the PNG to write.
    """
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    keys = np.flatnonzero(played.any(axis=0))
    first, last = max(keys.min() - 3, 0), min(keys.max() + 4, played.shape[1])
    extent = (0.5, len(played) + 0.5, lowest_note + first - 0.5, lowest_note + last - 0.5)
    for axes, roll, label in ((above, played, "played"), (below, predicted, "predicted")):
        image = axes.imshow(
            roll[:, first:last].T,
            aspect="auto",
            origin="lower",
            cmap="magma_r",
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="nearest",
        )
        axes.set_ylabel(f"{label}\nMIDI note")
    above.set_title(title)
    below.set_xlabel("frame")
    figure.colorbar(image, ax=[above, below], label="probability")
    save(figure, path)


def _curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], split: str, metric: str, **style: Any
) -> None:
    axes.plot(*_series(rows, split, metric), **style)


def _series(
    rows: Sequence[Mapping[str, Any]], split: str, metric: str
) -> tuple[list[int], list[float]]:
    """Returns steps and values of a metric; non-finite values are null in the rows."""
    chosen = [row for row in rows if row.get("split") == split and row.get(metric) is not None]
    return [row["step"] for row in chosen], [row[metric] for row in chosen]


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=160)
    write_atomically(path, png.getvalue())
