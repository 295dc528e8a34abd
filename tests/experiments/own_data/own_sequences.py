"""Small data sets of one's own for tests."""

import dataclasses

import numpy as np

from experiments.own_data.dataset import Dataset, Feature, Target

CLASSES = ("cat", "dog")


def sequences(
    number: int = 40, *, classes: bool = True, of_steps: bool = False, seed: int = 0
) -> Dataset:
    """Sequences of 3 to 12 steps with a number that drifts up or down, some missing, and a colour.

    The class is the sign of the drift; the number is the drift, or of a step the next-but-one sum.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, number)
    colours = ("blue", "green", "red")
    inputs, targets = [], []
    for index, length in enumerate(lengths):
        drift = (1 if index % 2 else -1) * rng.uniform(0.5, 1)
        value = 50 + 10 * (drift * np.arange(length) + 0.1 * rng.normal(size=length))
        value[rng.random(length) < 0.1] = np.nan
        inputs.append(np.stack([value, rng.integers(3, size=length)], axis=1))
        steps = np.arange(length) % 2 if classes else drift * np.arange(length)
        targets.append(steps.astype(float) if of_steps else float(index % 2) if classes else drift)
    return Dataset(
        features=(Feature("level"), Feature("colour", colours)),
        names=tuple(f"series {index}" for index in range(number)),
        inputs=tuple(inputs),
        target=Target("kind", CLASSES if classes else None),
        targets=tuple(targets) if of_steps else np.array(targets),
    )


SHOPS = tuple(f"shop {index:02}" for index in range(12))


def with_shop(dataset: Dataset) -> Dataset:
    """Adds a feature of so many categories that it is embedded."""
    rng = np.random.default_rng(2)
    inputs = tuple(
        np.concatenate([values, rng.integers(len(SHOPS), size=(len(values), 1))], axis=1)
        for values in dataset.inputs
    )
    features = (*dataset.features, Feature("shop", SHOPS))
    return dataclasses.replace(dataset, features=features, inputs=inputs)


def reordered(dataset: Dataset, order: np.ndarray) -> Dataset:
    """Returns a data set with its sequences in another order."""
    targets = dataset.targets
    if isinstance(targets, np.ndarray):
        targets = targets[order]
    elif targets is not None:
        targets = tuple(targets[i] for i in order)
    return dataclasses.replace(
        dataset,
        names=tuple(dataset.names[i] for i in order),
        inputs=tuple(dataset.inputs[i] for i in order),
        targets=targets,
    )


def texts(number: int = 12, length: int = 120, *, ids: bool = False, seed: int = 0) -> Dataset:
    """Texts in which a character is mostly followed by the next one; or such ids."""
    rng = np.random.default_rng(seed)
    characters = tuple("abcdefgh")
    inputs = []
    for _ in range(number):
        steps = np.where(rng.random(length) < 0.8, 1, rng.integers(8, size=length))
        inputs.append((np.cumsum(steps) % 8)[:, None].astype(float))
    return Dataset(
        features=(Feature("character", None if ids else characters),),
        names=tuple(f"text {index:02}" for index in range(number)),
        inputs=tuple(inputs),
    )
