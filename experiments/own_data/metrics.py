"""Metrics of numbers that are forecast or imputed."""

from collections.abc import Sequence

import numpy as np

from experiments.typing import Array, Metrics


def number_metrics(predicted: Array, targets: Array, deviation: Array) -> Metrics:
    """Returns the errors of numbers (N, T, K) where targets are not NaN.

    scaled_mse and scaled_mae are in units of the deviation in the training part, (N, K). The errors
    of a single number, K = 1, are given in its own unit, too.
    """
    missed = (np.asarray(predicted) - np.asarray(targets)).astype(np.float64)
    scaled = missed / np.asarray(deviation)[:, None]
    metrics = {
        "scaled_mse": float(np.nanmean(np.square(scaled))),
        "scaled_mae": float(np.nanmean(np.abs(scaled))),
    }
    if missed.shape[-1] == 1:
        metrics["mse"] = float(np.nanmean(np.square(missed)))
        metrics["mae"] = float(np.nanmean(np.abs(missed)))
    return metrics


def metric_labels(names: Sequence[str]) -> dict[str, str]:
    """Returns the labels of the metrics of these numbers."""
    labels = {
        "scaled_mse": "mean squared error (deviations)",
        "scaled_mae": "mean absolute error (deviations)",
    }
    if len(names) == 1:
        name = plain(names[0])
        labels["mse"] = f"mean squared error of {name}"
        labels["mae"] = f"mean absolute error of {name}"
    return labels


def plain(name: str) -> str:
    """Returns a column's name for a plot, in which text between dollar signs is a formula."""
    return name.replace("$", r"\$")
