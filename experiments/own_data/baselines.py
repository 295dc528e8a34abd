"""Models that need no network, fitted to summaries of sequences or to single steps."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from experiments.own_data.encoding import Encoding
from experiments.own_data.examples import EncodedPart, is_given
from experiments.own_data.splits import Part
from experiments.typing import Metrics

COSTS = (0.01, 1.0, 100.0)
PENALTIES = (0.1, 10.0, 1000.0)
MAX_ROWS = 20_000
"""Rows that a model is fitted to; of more, evenly spaced ones are taken."""


def summaries(part: EncodedPart, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Returns a row for each sequence and the targets: mean, deviation, last step and length."""
    rows = []
    for values in part.inputs:
        dense = encoding.dense(values)
        log_length = np.log(len(dense))[None]
        rows.append(np.concatenate([dense.mean(0), dense.std(0), dense[-1], log_length]))
    return np.array(rows, np.float32), np.asarray(part.targets)


def steps(part: EncodedPart, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Returns a row for each step with a target: the step, the one before it, the mean so far."""
    rows, targets = [], []
    for values, of_steps in zip(part.inputs, part.targets, strict=True):
        dense = encoding.dense(values)
        before = np.concatenate([dense[:1], dense[:-1]])
        mean = np.cumsum(dense, axis=0) / np.arange(1, len(dense) + 1)[:, None]
        given = is_given(of_steps)
        rows.append(np.concatenate([dense, before, mean], axis=1)[given].astype(np.float32))
        targets.append(of_steps[given])
    return np.concatenate(rows), np.concatenate(targets)


def baselines(parts: dict[Part, EncodedPart], encoding: Encoding) -> dict[str, Metrics]:
    """Returns the test metrics of the most frequent class or the mean, and of a linear model.

    Both are fitted to the training part. The penalty of the linear model, which is a logistic
    regression or a ridge regression, is the best of three by the validation metric.
    """
    assert encoding.target is not None
    of_steps = not isinstance(parts["train"].targets, np.ndarray)
    rows_of = steps if of_steps else summaries
    train, validation, test = (
        rows_of(parts[part], encoding) for part in ("train", "validation", "test")
    )
    centre, scale = train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    train, validation, test = (
        ((rows - centre) / scale, targets) for rows, targets in (train, validation, test)
    )
    what = "each step" if of_steps else "mean, deviation and last step"
    if encoding.target.classes is None:
        return _of_numbers(train, validation, test, encoding.target.deviation, what)
    return _of_classes(train, validation, test, len(encoding.target.classes), what)


def _of_classes(train: Any, validation: Any, test: Any, classes: int, what: str) -> Any:
    counts = np.bincount(train[1], minlength=classes)
    frequencies = counts / counts.sum()

    def metrics(probabilities: np.ndarray) -> Metrics:
        of_target = probabilities[np.arange(len(test[1])), test[1]]
        return {
            "accuracy": float(np.mean(probabilities.argmax(axis=-1) == test[1])),
            "cross_entropy": float(-np.log(np.maximum(of_target, 1e-12)).mean()),
        }

    fitted = _best(
        [LogisticRegression(C=cost, max_iter=500) for cost in COSTS],
        train,
        lambda model: -model.score(*validation),
    )
    return {
        "majority class": metrics(np.tile(frequencies, (len(test[1]), 1))),
        f"logistic regression, {what}": metrics(fitted.predict_proba(test[0])),
    }


def _of_numbers(train: Any, validation: Any, test: Any, deviation: float, what: str) -> Any:
    def metrics(predicted: Any, targets: np.ndarray) -> Metrics:
        missed = np.asarray(predicted, np.float64) - targets
        return {
            "mse": float(np.square(missed).mean()),
            "mae": float(np.abs(missed).mean() * deviation),
        }

    fitted = _best(
        [Ridge(alpha=penalty) for penalty in PENALTIES],
        train,
        lambda model: metrics(model.predict(validation[0]), validation[1])["mse"],
    )
    return {
        "mean": metrics(train[1].mean(dtype=np.float64), test[1]),
        f"linear, {what}": metrics(fitted.predict(test[0]), test[1]),
    }


def _best(candidates: list[Any], train: Any, error: Callable[[Any], float]) -> Any:
    rows, targets = train
    every = max(1, len(rows) // MAX_ROWS)
    if np.unique(targets[::every]).size < np.unique(targets).size:
        # A rare class.
        every = 1
    with warnings.catch_warnings():
        # A baseline that has not converged is still a baseline.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [candidate.fit(rows[::every], targets[::every]) for candidate in candidates]
    return min(fitted, key=error)
