"""Train, validation and test of one's own sequences: by time, by sequence, or by the files."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.dataset import Dataset

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
# Sequences of a class from which on each part has at least one of them.
FEWEST = 3


@dataclasses.dataclass(frozen=True)
class Splits:
    """The steps of each part.

    Attributes:
        spans: by part, (N, 2): the first step of each sequence in the part, and the one after the
            last; both are 0 for a sequence of another part.
        sentence: what was divided, for the user.
    """

    spans: dict[Part, np.ndarray]
    sentence: str

    def sequences(self, part: Part) -> np.ndarray:
        """Returns the indices of the sequences that have steps in a part."""
        begin, end = self.spans[part].T
        return np.flatnonzero(end > begin)


def split_dataset(dataset: Dataset, config: DataConfig) -> Splits:
    """Divides a data set, which is a function of the names, lengths and classes alone.

    Raises:
        UserError: a part has no steps, or the files do not say what is to be divided by them.
    """
    lengths = np.array([len(values) for values in dataset.inputs], int)
    if config.split == "time":
        return _checked(_by_time(lengths, config), config, "steps")
    if config.split == "file":
        if dataset.split is None:
            raise UserError(
                f"data.split is file, but {config.path} does not say which sequences are for "
                "training, validation and test. Use sequence or time."
            )
        chosen = np.array(dataset.split, dtype=object)
        if "validation" not in dataset.split:
            # Many published data sets have a test part only.
            inside = np.flatnonzero(chosen == "train")
            chosen[inside] = assign(
                [dataset.names[i] for i in inside],
                None if dataset.target is None else _classes(dataset, inside),
                config.validation,
                0.0,
            )
        sentence = "Train, validation and test are divided as the files say"
    else:
        every = np.arange(len(lengths))
        chosen = assign(dataset.names, _classes(dataset, every), config.validation, config.test)
        sentence = "Whole sequences are divided into train, validation and test"
    spans: dict[Part, np.ndarray] = {
        part: np.where(chosen == part, [np.zeros_like(lengths), lengths], 0).T for part in PARTS
    }
    return _checked(Splits(spans, sentence), config, "sequences")


def assign(
    names: Sequence[str], classes: Sequence[Any] | None, validation: float, test: float
) -> np.ndarray:
    """Chooses a part for each sequence, (N,).

    In each class the sequences are ordered by a digest of their names, and the first of them are
    for the test, the next for validation. A new sequence moves at most two others of its class.

    Args:
        names: names of the sequences.
        classes: the class of each, so that all parts have the same frequencies; None for one class.
        validation, test: their fractions. If above 0, each part has a sequence of each class that
            has three or more.
    """
    parts = np.full(len(names), "train", dtype=object)
    of_class: dict[Any, list[int]] = {}
    for index, name in enumerate(classes if classes is not None else [0] * len(names)):
        of_class.setdefault(name, []).append(index)
    for members in of_class.values():
        ordered = sorted(members, key=lambda index: (_digest(names[index]), names[index]))
        least = int(len(members) >= FEWEST)
        num_test, num_validation = (
            max(least, round(fraction * len(members))) if fraction else 0
            for fraction in (test, validation)
        )
        parts[ordered[:num_test]] = "test"
        parts[ordered[num_test : num_test + num_validation]] = "validation"
    return parts


def _by_time(lengths: np.ndarray, config: DataConfig) -> Splits:
    first = np.round(lengths * (1 - config.validation - config.test)).astype(int).clip(0)
    second = np.maximum(np.round(lengths * (1 - config.test)).astype(int), first)
    zero = np.zeros_like(lengths)
    borders = {
        "train": (zero, first),
        "validation": (first, second),
        "test": (second, lengths),
    }
    spans: dict[Part, np.ndarray] = {part: np.stack(borders[part], axis=-1) for part in PARTS}
    return Splits(spans, "The time of each sequence is divided into train, validation and test")


def _classes(dataset: Dataset, chosen: np.ndarray) -> list[Any] | None:
    """Returns the classes of whole sequences; None if there are none."""
    target = dataset.target
    if target is None or target.classes is None or not isinstance(dataset.targets, np.ndarray):
        return None
    return dataset.targets[chosen].tolist()


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _checked(splits: Splits, config: DataConfig, unit: str) -> Splits:
    steps = {part: int(np.diff(splits.spans[part]).sum()) for part in PARTS}
    counts = steps if unit == "steps" else {p: len(splits.sequences(p)) for p in PARTS}
    empty = [part for part in PARTS if not counts[part]]
    if empty:
        advice = {
            "time": "Longer sequences or larger fractions are needed.",
            "sequence": "data.split: time divides the steps of each sequence instead.",
            "file": "Every part is needed.",
        }[config.split]
        raise UserError(
            f"{config.path}: {' and '.join(empty)} would have no {unit}. There are "
            f"{sum(counts.values())} {unit}, data.split is {config.split}, data.validation is "
            f"{config.validation:g} and data.test is {config.test:g}. {advice}"
        )
    numbers = ", ".join(f"{counts[part]:,}" for part in PARTS)
    return Splits(splits.spans, f"{splits.sentence}: {numbers} {unit}.")
