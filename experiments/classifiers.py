"""Classifiers that need no network, which a network's figures stand beside."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.task import Array, Figures


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
