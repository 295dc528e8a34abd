"""Folders in which each file is a sequence: data sets of them, and a config for one."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.own_data.arrays.guesses import MOST_CLASSES
from experiments.own_data.arrays.sequences import encode_target
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature
from experiments.own_data.folders import LabelledFile, class_column
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings


def folder_dataset(
    files: list[LabelledFile],
    sequences: list[np.ndarray],
    features: list[str],
    config: DataConfig,
    problem: Problem,
    *,
    targets: bool,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Returns the data set of a folder in which each file is a sequence."""
    target, values = None, None
    if targets and problem in ("classification", "regression"):
        name = class_column(config.path, config.target)
        labels = np.array([file.label for file in files])
        if problem == "regression":
            labels = np.array([_number(file, name) for file in files])
        target, values = encode_target(
            labels, name, config.path, is_class=problem == "classification"
        )
    splits = [file.split for file in files]
    return Dataset(
        features=tuple(map(Feature, features)),
        names=tuple(file.name for file in files),
        inputs=tuple(sequences),
        target=target,
        targets=values,
        split=tuple(splits) if all(splits) else None,  # pyright: ignore[reportArgumentType]
        notes=(f"{len(files):,} files in {config.path}.", *notes),
    )


def propose_folder(path: str, chosen: Mapping[str, Any], files: list[LabelledFile]) -> Proposal:
    """Proposes a config for a folder of labelled files, each a sequence."""
    labels = sorted({file.label or "" for file in files})
    column = class_column(path, list(chosen.get("data.target", [])))
    are_numbers = all(_is_number(label) for label in labels) and len(labels) > MOST_CLASSES
    guess: Problem = "regression" if are_numbers else "classification"
    problem = chosen.get("problem", guess)
    data = {"target": [column], "split": "sequence"}
    why = "files are divided within each class"
    if all(file.split for file in files):
        data["split"], why = "file", "the folders or the table of labels say so"
    return Proposal(
        problem,
        {**data, **chosen_data(chosen)},
        {**training_settings(round(0.7 * len(files))), **chosen_settings(chosen)},
        {
            "problem": f"{len(labels)} different values of {column}: {', '.join(labels[:8])}",
            "data.path": f"{len(files):,} files",
            "data.split": why,
        },
    )


def _number(file: LabelledFile, name: str) -> float:
    if not _is_number(file.label or ""):
        raise UserError(
            f"{file.name}: {name} is {file.label!r}, but should be a finite number for regression."
        )
    return float(file.label or "")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
