"""The figures a run leaves behind, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.files import replace_atomically
from experiments.task import Array


def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    loss: str,
    monitor: str,
    labels: Mapping[str, str],
    best_step: int,
    path: Path,
) -> None:
    """Draws the loss in training and validation, and the figure monitored, over the steps.

    Args:
        rows: the rows of `metrics.jsonl`.
        loss: the validation figure that is the loss.
        monitor: the validation figure that chose the best step.
        labels: each figure's name and unit.
        best_step: the step whose parameters were kept.
        path: the PNG to write.
    """
    names = [loss] if monitor == loss else [loss, monitor]
    figure = Figure(figsize=(7, 1.5 + 2.7 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    _curve(panels[0], rows, "train", "loss", color="tab:gray", alpha=0.6, label="training")
    for panel, name in zip(panels, names, strict=True):
        _curve(panel, rows, "validation", name, color="tab:blue", label="validation")
        panel.axvline(best_step, color="black", linewidth=0.8, linestyle=":", label="best step")
        panel.set_ylabel(labels[name])
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panels[0].set_title("Learning curves")
    _, losses = _series(rows, "validation", loss)
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        panels[0].set_yscale("log")
    if losses:
        # The first steps, which are far above the rest, would leave it no room.
        panels[0].set_ylim(top=1.2 * max(losses))
    panels[-1].set_xlabel("step")
    save(figure, path)


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """Draws how often each class (rows) was taken for each class (columns)."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts > 0):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    save(figure, path)


def gate_activity(gates: Mapping[str, Array], inputs: Array, title: str, path: Path) -> None:
    """Draws gates (steps, units) as images over the steps, below the input (steps,) they saw."""
    heights = [1] + [2.5] * len(gates)
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
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
    panels[-1].set_xticks(range(0, len(inputs) + 1, 8))
    save(figure, path)


def scatter(truth: Array, predicted: Array, title: str, path: Path) -> None:
    """Draws predicted against true values, with the line on which they are equal."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8, linestyle=":", label="predicted = true")
    axes.scatter(truth, predicted, s=6, alpha=0.5, label="test sequences")
    axes.set(xlabel="true sum", ylabel="predicted sum", title=title, aspect="equal")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    save(figure, path)


def confidence(probabilities: np.ndarray, right: Array, title: str, path: Path) -> None:
    """Draws the probabilities (classes, steps) of classes over steps, the right ones ringed."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    steps = range(len(right))
    axes.plot(steps, right, "o", markersize=14, fillstyle="none", color="black", label="right")
    axes.set(xlabel="step", ylabel="symbol", title=title)
    axes.legend(loc="upper right")
    figure.colorbar(image, ax=axes, label="probability")
    save(figure, path)


def attention(
    weights: np.ndarray, *, asked: Sequence[str], seen: Sequence[str], title: str, path: Path
) -> None:
    """Draws how much each symbol written (rows) attended to each symbol read (columns)."""
    figure = Figure(figsize=(2 + 0.35 * len(seen), 1.5 + 0.3 * len(asked)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(seen)), seen, rotation=60, ha="right")
    axes.set_yticks(range(len(asked)), asked)
    axes.set(xlabel="read", ylabel="written", title=title)
    figure.colorbar(image, ax=axes, label="attention")
    save(figure, path)


def forecasts(
    windows: Any,
    predicted: Mapping[str, np.ndarray],
    columns: Sequence[tuple[str, int]],
    title: str,
    path: Path,
) -> None:
    """Draws forecasts over the truth: a row per column, a panel per window.

    Args:
        windows: `read` (N, window, columns) and `after` (N, horizon, columns).
        predicted: by model, forecasts like `after`.
        columns: names and places of those to be drawn.
        title: what stands above.
        path: the PNG to write.
    """
    number, window = windows.read.shape[:2]
    horizon = windows.after.shape[1]
    figure = Figure(figsize=(4.2 * number, 1 + 2.3 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), number, sharex=True, sharey="row", squeeze=False)
    before, ahead = np.arange(-window + 1, 1), np.arange(1, horizon + 1)
    for row, (name, column) in zip(panels, columns, strict=True):
        for index, panel in enumerate(row):
            panel.plot(before, windows.read[index, :, column], color="gray", label="read")
            panel.plot(ahead, windows.after[index, :, column], color="black", label="truth")
            for model, values in predicted.items():
                panel.plot(ahead, values[index, :, column], label=model)
            panel.axvline(0, color="gray", linewidth=0.8, linestyle=":")
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"{name}, standardised")
    panels[0, 0].legend(frameon=False, fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("hours")
    figure.suptitle(title)
    save(figure, path)


def film_strip(rows: Mapping[str, np.ndarray], title: str, path: Path) -> None:
    """Draws films, a row of frames in [0, 1] each; a shorter one stands below the last frames.

    Args:
        rows: by what stands beside it, a film (frames, height, width).
        title: what stands above.
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
    """Draws a piece (frames, keys) above the probabilities predicted for each of its frames.

    Args:
        played: 1 where a key sounds.
        predicted: the probability that it does, given the frames before.
        lowest_note: the MIDI number of the first key.
        title: what stands above.
        path: the PNG to write.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
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
    axes: Axes, rows: Sequence[Mapping[str, Any]], split: str, figure: str, **style: Any
) -> None:
    axes.plot(*_series(rows, split, figure), **style)


def _series(
    rows: Sequence[Mapping[str, Any]], split: str, figure: str
) -> tuple[list[int], list[float]]:
    """Returns steps and values of a figure; one that is not finite is null in the rows."""
    chosen = [row for row in rows if row["split"] == split and row.get(figure) is not None]
    return [row["step"] for row in chosen], [row[figure] for row in chosen]


def save(figure: Figure, path: Path) -> None:
    replace_atomically(path, lambda beside: figure.savefig(beside, format="png", dpi=130))
