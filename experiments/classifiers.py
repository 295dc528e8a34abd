"""What classification tasks share: metrics, baselines and a confusion matrix."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from experiments import plots
from experiments.evaluation import mean_over_rows
from experiments.typing import Array, Batch, LossFunction, Metrics, Params, Split

METRIC_LABELS = {"cross_entropy": "cross entropy (nats)", "accuracy": "accuracy"}
# Candidates of the baselines' hyper-parameters; GAMMAS are relative to scikit-learn's default.
REGRESSION_COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
SVC_COSTS = (1.0, 10.0, 100.0)
GAMMAS = (0.1, 0.3, 1.0, 3.0, 10.0)

Classifier = TypeVar("Classifier", LogisticRegression, SVC)


class Examples(NamedTuple):
    """Features (N, features) and labels (N,), counted from 0."""

    features: Array
    labels: Array


def make_evaluate(
    loss: LossFunction, splits: Mapping[str, Batch]
) -> Callable[[Params, Split], Metrics]:
    """Returns a task's `evaluate`, from a loss with the accuracy as auxiliary scalar."""

    @jax.jit
    def means(params: Params, batch: Batch) -> dict[str, jax.Array]:
        value, auxiliary = loss(params, batch, None)
        return {"cross_entropy": value, "accuracy": auxiliary["accuracy"]}

    return lambda params, split: mean_over_rows(means, params, splits[split])


def plot_confusion(labels: Array, predicted: Array, title: str, directory: Path) -> None:
    """Plots the confusion matrix; the accuracy is added to the title."""
    classes = range(int(np.max(labels)) + 1)
    plots.confusion_matrix(
        confusion_matrix(labels, predicted, labels=classes),
        [str(name) for name in classes],
        f"{title}, {np.mean(np.asarray(predicted) == np.asarray(labels)):.1%} correct",
        directory / "confusion_matrix.png",
    )


def baselines(train: Examples, validation: Examples, test: Examples) -> dict[str, Metrics]:
    """Returns the test metrics of classifiers that need no network.

    They are the majority class, a logistic regression, the nearest neighbour in Euclidean distance,
    and a support vector classifier (SVC) with Gaussian kernel. All are fitted to the training split
    only, as the network is. The penalties and the kernel's width are the best of a grid by the
    validation accuracy. The last two classifiers give no probabilities, so they lack a
    cross-entropy.

    Args:
        train: examples to fit to; every class occurs.
        validation: examples to choose hyper-parameters on.
        test: examples to evaluate on.
    """
    counts = np.bincount(train.labels)
    frequencies = counts / counts.sum()
    regression = select(
        (LogisticRegression(C=cost, max_iter=5000) for cost in REGRESSION_COSTS),
        train,
        validation,
    )
    # Classes count from 0, so a label is also the column of its probability.
    probabilities = regression.predict_proba(test.features)
    of_label = probabilities[np.arange(len(test.labels)), test.labels]
    nearest = KNeighborsClassifier(n_neighbors=1).fit(*train)
    # scikit-learn's annotation of gamma lacks numbers.
    gamma: Any = 1 / (train.features.shape[1] * np.var(train.features))
    svc = select(
        (SVC(C=cost, gamma=scale * gamma) for cost in SVC_COSTS for scale in GAMMAS),
        train,
        validation,
    )
    return {
        "majority class": {
            "cross_entropy": float(-np.log(frequencies[test.labels]).mean()),
            "accuracy": float(np.mean(test.labels == counts.argmax())),
        },
        "logistic regression": {
            "cross_entropy": float(-np.log(of_label).mean()),
            "accuracy": float(regression.score(*test)),
        },
        "nearest neighbour": {"accuracy": float(nearest.score(*test))},
        "SVC, Gaussian kernel": {"accuracy": float(svc.score(*test))},
    }


def select(candidates: Iterable[Classifier], train: Examples, validation: Examples) -> Classifier:
    """Fits candidates to the training split; returns the first of the best validation accuracy."""
    return max(
        (candidate.fit(*train) for candidate in candidates),
        key=lambda fitted: fitted.score(*validation),
    )
