"""Sequences of one's own: what every kind of file yields and every kind of problem takes."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Feature:
    """What is known at each step: a number, or one of some categories.

    Attributes:
        name: the column's name, or that of a file's array.
        categories: the names of the categories, in order; None for a number.
        known_ahead: in forecasting, whether it is known at the steps of the horizon, too.
    """

    name: str
    categories: tuple[str, ...] | None = None
    known_ahead: bool = False


@dataclass(frozen=True)
class Target:
    """What is to be predicted of a sequence, or of each of its steps.

    Attributes:
        name: the column's name, or that of a file's array.
        classes: the names of the classes, in order; None for a number.
    """

    name: str
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """N sequences of unequal lengths T_i with F features.

    Attributes:
        features: the F features.
        names: (N,) ids of series, names of files or numbers of rows, for messages and predictions.
        inputs: N arrays (T_i, F), float64 or float32: a number, or the index of a category;
            NaN where it is missing.
        target: what is to be predicted; None in the problems whose targets are features
            (forecasting, next-token, imputation), and for rows that are only to be predicted.
        targets: of sequences, (N,) numbers or indices of classes, float64; of steps, N arrays
            (T_i,), NaN where a step has none. None where `target` is.
        times: N arrays (T_i,) of datetime64 or numbers, ascending; None if there are none.
        lines: N arrays (T_i,), the line of the file that each step comes from, for messages; 0 for
            a step that was added where one was missing. None for files without lines.
        split: (N,) "train", "validation" or "test", if the files say so; else None.
        notes: what was decided in reading, one sentence each, such as gaps that were filled.
    """

    features: tuple[Feature, ...]
    names: tuple[str, ...]
    inputs: tuple[np.ndarray, ...]
    target: Target | None = None
    targets: np.ndarray | tuple[np.ndarray, ...] | None = None
    times: tuple[np.ndarray, ...] | None = None
    lines: tuple[np.ndarray, ...] | None = None
    split: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())
