"""What tasks that classify have in common: figures, the baselines beside them, a plot."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from experiments import plots
from experiments.task import Array, Batch, Figures, LossFunction, Params, Split

LABELS = {"cross_entropy": "cross entropy (nats)", "accuracy": "accuracy"}


def figures_of(
    loss: LossFunction, splits: Mapping[str, Batch]
) -> Callable[[Params, Split], Figures]:
    """Returns a task's figures, from a loss whose further scalar is the accuracy."""
    evaluate = jax.jit(partial(loss, key=None))

    def figures(params: Params, split: Split) -> Figures:
        value, further = evaluate(params, splits[split])
        return {"cross_entropy": float(value), "accuracy": float(further["accuracy"])}

    return figures


def draw_confusion(labels: Array, predicted: Array, title: str, directory: Path) -> None:
    """Draws how often each class was taken for which; the title ends with the share right."""
    classes = range(int(np.max(labels)) + 1)
    plots.confusion_matrix(
        confusion_matrix(labels, predicted, labels=classes),
        [str(name) for name in classes],
        f"{title}, {np.mean(np.asarray(predicted) == np.asarray(labels)):.1%} right",
        directory / "confusion_matrix.png",
    )


def baselines(
    train_features: Array, train_labels: Array, test_features: Array, test_labels: Array
) -> dict[str, Figures]:
    """Returns the test figures of the commonest class and of a logistic regression.

    Both see the training split alone, as the network does.

    Args:
        train_features: (N, features).
        train_labels: (N,), from 0 on; every class occurs.
        test_features: (M, features).
        test_labels: (M,).
    """
    counts = np.bincount(train_labels)
    shares = counts / counts.sum()
    regression = LogisticRegression(max_iter=1000).fit(train_features, train_labels)
    # The classes count from 0, so a label is also the column of its probability.
    probabilities = regression.predict_proba(test_features)
    right = probabilities[np.arange(len(test_labels)), test_labels]
    return {
        "majority class": {
            "cross_entropy": float(-np.log(shares[test_labels]).mean()),
            "accuracy": float(np.mean(test_labels == counts.argmax())),
        },
        "logistic regression": {
            "cross_entropy": float(-np.log(right).mean()),
            "accuracy": float(regression.score(test_features, test_labels)),
        },
    }
