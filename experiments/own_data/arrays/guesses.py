"""What arrays are likely to hold, and a config for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.own_data.arrays.files import INPUTS
from experiments.own_data.arrays.sequences import (
    LENGTHS,
    SPLIT,
    TARGET,
    Arrays,
    dataset_of,
    is_ragged,
)
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.sizes import token_settings, training_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings

MOST_CLASSES = 50
"""Different integers that are taken for classes, not for numbers."""


def propose(where: str, chosen: Mapping[str, Any], arrays: Arrays) -> Proposal:
    """Proposes a config for arrays."""
    target = [*chosen.get("data.target", [TARGET] if TARGET in arrays else [])]
    data: dict[str, Any] = {"target": target, "split": "sequence", **chosen_data(chosen)}
    problem, why = _guess(where, arrays, target)
    problem = chosen.get("problem", problem)
    if problem is None:
        raise UserError(
            f"{where} has no array {TARGET}; its arrays are {', '.join(arrays)}. Name the one to "
            "predict by --target, or give --problem."
        )
    if SPLIT in arrays and "data.split" not in chosen:
        data["split"] = "file"
    config = DataConfig(path=where, **data)
    dataset = dataset_of(arrays, config, problem)
    if len(dataset.names) == 1 and "data.split" not in chosen:
        data["split"] = "time"
    steps = sum(map(len, dataset.inputs))
    examples = steps // 20 if problem == "labelling" else len(dataset.names)
    if problem == "next-token":
        settings = token_settings(steps)
        data["target"] = []
    else:
        settings = training_settings(round(0.7 * examples))
    return Proposal(
        problem,
        data,
        {**settings, **chosen_settings(chosen)},
        {
            "problem": why,
            "data.path": f"{len(dataset.names):,} sequences of {steps:,} steps with "
            f"{len(dataset.features)} features",
            "data.split": {
                "file": f"the array {SPLIT} says so",
                "time": "there is one sequence",
                "sequence": "there are many sequences",
            }[data["split"]],
        },
    )


def _guess(where: str, arrays: Arrays, target: list[str]) -> tuple[Problem | None, str]:
    if not target or target[0] not in arrays:
        inputs = arrays.get(INPUTS)
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iu" and inputs.ndim < 3:
            return "next-token", f"{INPUTS} has integers, and there is no array {TARGET}"
        return None, ""
    if is_ragged(arrays[target[0]]):
        return "labelling", f"{target[0]} has a value for each step"
    values = np.asarray(arrays[target[0]])
    if values.ndim == 2 or len(values) != _number_of_sequences(arrays):
        return "labelling", f"{target[0]} has a value for each step"
    are_numbers = values.dtype.kind == "f" or (
        values.dtype.kind in "iu" and len(np.unique(values)) > MOST_CLASSES
    )
    if are_numbers:
        return "regression", f"{target[0]} has a number for each sequence"
    return "classification", f"{target[0]} has {len(np.unique(values))} different values"


def _number_of_sequences(arrays: Arrays) -> int:
    if LENGTHS in arrays:
        return len(np.atleast_1d(arrays[LENGTHS]))
    if INPUTS not in arrays:
        return 0
    inputs = arrays[INPUTS]
    return len(inputs) if is_ragged(inputs) or np.ndim(inputs) > 1 else 1
