"""What classification tasks share: metrics, baselines and a confusion matrix."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from experiments import plots
from experiments.typing import Array, Batch, LossFunction, Metrics, Params, Split

METRIC_LABELS = {"cross_entropy": "cross entropy (nats)", "accuracy": "accuracy"}


def make_evaluate(
    loss: LossFunction, splits: Mapping[str, Batch]
) -> Callable[[Params, Split], Metrics]:
    """Returns a task's `evaluate`, from a loss with the accuracy as auxiliary scalar."""
    evaluate_loss = jax.jit(partial(loss, key=None))

    def evaluate(params: Params, split: Split) -> Metrics:
        value, auxiliary = evaluate_loss(params, splits[split])
        return {"cross_entropy": float(value), "accuracy": float(auxiliary["accuracy"])}

    return evaluate


def plot_confusion(labels: Array, predicted: Array, title: str, directory: Path) -> None:
    """Plots the confusion matrix; the accuracy is added to the title."""
    classes = range(int(np.max(labels)) + 1)
    plots.confusion_matrix(
        confusion_matrix(labels, predicted, labels=classes),
        [str(name) for name in classes],
        f"{title}, {np.mean(np.asarray(predicted) == np.asarray(labels)):.1%} correct",
        directory / "confusion_matrix.png",
    )


def baselines(
    train_features: Array, train_labels: Array, test_features: Array, test_labels: Array
) -> dict[str, Metrics]:
    """Returns the test metrics of the majority class and of a logistic regression.

    Both are fitted to the training split only, as the network is.

    Args:
        train_features: (N, features).
        train_labels: (N,), counted from 0; every class occurs.
        test_features: (M, features).
        test_labels: (M,).
    """
    counts = np.bincount(train_labels)
    frequencies = counts / counts.sum()
    regression = LogisticRegression(max_iter=1000).fit(train_features, train_labels)
    # Classes count from 0, so a label is also the column of its probability.
    probabilities = regression.predict_proba(test_features)
    of_label = probabilities[np.arange(len(test_labels)), test_labels]
    return {
        "majority class": {
            "cross_entropy": float(-np.log(frequencies[test_labels]).mean()),
            "accuracy": float(np.mean(test_labels == counts.argmax())),
        },
        "logistic regression": {
            "cross_entropy": float(-np.log(of_label).mean()),
            "accuracy": float(regression.score(test_features, test_labels)),
        },
    }
