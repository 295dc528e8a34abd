"""Data sets of arrays by name.

An array of inputs has the shape (N, T) or (N, T, D), or with `lengths` (N,) the steps of all
sequences one after the other, (sum of lengths,) or (sum of lengths, D).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.own_data.arrays.files import INPUTS
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature, Target
from experiments.own_data.splits import PARTS

TARGET, LENGTHS, NAMES, SPLIT = "y", "lengths", "names", "split"
MAX_CLASSES = 1000
Arrays = Mapping[str, Any]


def dataset_of(
    arrays: Arrays, config: DataConfig, problem: Problem, *, targets: bool = True
) -> Dataset:
    """Returns the data set of arrays by name.

    Args:
        arrays: `x` and others of inputs, `y`, and optionally `lengths`, `names` and `split`. An
            array of inputs may be a list of arrays (T_i, D), one for each sequence.
        config: names of inputs and target, if they are others.
        problem: what they are for.
        targets: whether there must be targets.

    Raises:
        UserError: the arrays do not fit each other or the problem; names array and index.
    """
    where = config.path
    target_name = config.target[0] if config.target else TARGET
    names = config.inputs or [
        name
        for name in arrays
        if name not in {LENGTHS, NAMES, SPLIT, target_name, TARGET, config.id, config.time}
    ]
    for name in [*names, *([config.id] if config.id else [])]:
        if name not in arrays:
            raise UserError(f"{where} has no array {name}; its arrays are {', '.join(arrays)}.")
    if not names:
        raise UserError(
            f"{where} has no inputs, such as an array {INPUTS} (N, T, D); its arrays are "
            f"{', '.join(arrays)}."
        )
    lengths = _lengths(arrays, where)
    columns, features = [], []
    for name in names:
        of_sequences = _sequences(arrays[name], lengths, f"{where}: {name}")
        if lengths is None:
            lengths = np.array(list(map(len, of_sequences)))
        for index, (values, length) in enumerate(zip(of_sequences, lengths, strict=True)):
            if len(values) != length:
                raise UserError(
                    f"{where}: {name} has {len(values)} steps in sequence {index}, but should have "
                    f"{length}."
                )
        is_category = name in config.categories or of_sequences[0].dtype.kind in "US"
        converted, categories = _features(of_sequences, f"{where}: {name}", is_category=is_category)
        columns.append(converted)
        features += [
            Feature(each, categories) for each in feature_names(name, converted[0].shape[1])
        ]
    assert lengths is not None
    number = len(lengths)
    if problem == "next-token":
        _check_ids(arrays, names, where)
    inputs = tuple(np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True))
    target, values = None, None
    if targets and problem in ("classification", "regression", "labelling"):
        if target_name not in arrays:
            raise UserError(
                f"{where} has no array {target_name} of targets; its arrays are "
                f"{', '.join(arrays)}. Name it by data.target."
            )
        target, values = _targets(
            arrays[target_name], target_name, lengths, f"{where}: {target_name}", problem
        )
    return Dataset(
        features=tuple(features),
        names=_names(arrays.get(config.id or NAMES), number, where),
        inputs=inputs,
        target=target,
        targets=values,
        split=_split(arrays.get(SPLIT), number, where),
        notes=(f"{number:,} sequences of {int(lengths.sum()):,} steps in {where}.",),
    )


def _lengths(arrays: Arrays, where: str) -> np.ndarray | None:
    if LENGTHS not in arrays:
        return None
    lengths = np.asarray(arrays[LENGTHS])
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise UserError(
            f"{where}: {LENGTHS} has the shape {lengths.shape} and the dtype {lengths.dtype}, but "
            "should be integers, one for each sequence."
        )
    wrong = np.flatnonzero(lengths < 1)
    if len(wrong):
        raise UserError(
            f"{where}: {LENGTHS}[{wrong[0]}] is {lengths[wrong[0]]}, but should be 1 or more."
        )
    return lengths.astype(np.int64)


def _sequences(array: Any, lengths: np.ndarray | None, where: str) -> list[np.ndarray]:
    """Divides an array into sequences (T_i, ...)."""
    if isinstance(array, list | tuple):
        found = [np.asarray(values) for values in array]
        if not found or any(values.ndim not in (1, 2) for values in found):
            raise UserError(f"{where} should be a list of arrays (T,) or (T, D).")
        return found
    array = np.asarray(array)
    if array.dtype.kind == "O":
        raise UserError(f"{where} holds Python objects, but should be numbers or texts.")
    if array.ndim not in (1, 2, 3) or not array.size:
        raise UserError(f"{where} has the shape {array.shape}, but should be (N, T, D) or (N, T).")
    if lengths is None:
        return [array] if array.ndim == 1 else list(array)
    total, number = int(lengths.sum()), len(lengths)
    if array.ndim < 3 and len(array) == total:
        return np.split(array, np.cumsum(lengths)[:-1])
    if array.ndim == 1 or len(array) != number:
        raise UserError(
            f"{where} has the shape {array.shape}, but should have {number} sequences, or "
            f"{total} steps, the sum of {LENGTHS}."
        )
    beyond = np.flatnonzero(lengths > array.shape[1])
    if len(beyond):
        raise UserError(
            f"{where} has {array.shape[1]} steps, but sequence {beyond[0]} has the length "
            f"{lengths[beyond[0]]}."
        )
    return [values[:length] for values, length in zip(array, lengths, strict=True)]


def is_ragged(array: Any) -> bool:
    """Whether it is a list of arrays, one for each sequence."""
    return isinstance(array, list | tuple) and len(array) > 0 and np.ndim(array[0]) > 0


def _features(
    of_sequences: list[np.ndarray], where: str, *, is_category: bool
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """Returns sequences (T_i, D) of float64, or of indices of categories, and these."""
    shaped = [values[:, None] if values.ndim == 1 else values for values in of_sequences]
    width = shaped[0].shape[1]
    other = next((i for i, values in enumerate(shaped) if values.shape[1] != width), None)
    if other is not None:
        raise UserError(
            f"{where} has {shaped[other].shape[1]} features in sequence {other}, but {width} in "
            "sequence 0."
        )
    if not is_category:
        return [as_numbers(values, where) for values in shaped], None
    every = np.unique(np.concatenate([np.unique(values) for values in shaped]))
    return [np.searchsorted(every, values).astype(float) for values in shaped], _texts(every)


def as_numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where} has the dtype {values.dtype}, but should be numbers.")
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        index = tuple(int(i) for i in np.argwhere(np.isinf(numbers))[0])
        raise UserError(f"{where} is infinite at {index}. A missing number is NaN.")
    return numbers


def _texts(values: np.ndarray) -> tuple[str, ...]:
    if values.dtype.kind == "S":
        return tuple(value.decode("utf-8", "replace") for value in values.tolist())
    return tuple(str(value) for value in values.tolist())


def feature_names(name: str, width: int) -> list[str]:
    return [name] if width == 1 else [f"{name} {index}" for index in range(width)]


def _check_ids(arrays: Arrays, names: list[str], where: str) -> None:
    if len(names) > 1:
        raise UserError(
            f"{where}: next-token takes one array of ids, but there are {', '.join(names)}. Name "
            "one by data.inputs."
        )
    name = names[0]
    for values in arrays[name] if isinstance(arrays[name], list | tuple) else [arrays[name]]:
        values = np.asarray(values)
        if values.dtype.kind not in "iu":
            raise UserError(
                f"{where}: {name} has the dtype {values.dtype}, but ids should be integers."
            )
        if values.size and values.min() < 0:
            raise UserError(f"{where}: {name} has the id {values.min()}, but ids count from 0.")


def _targets(
    array: Any, name: str, lengths: np.ndarray, where: str, problem: Problem
) -> tuple[Target, Any]:
    number, total = len(lengths), int(lengths.sum())
    of_steps = problem == "labelling"
    if not of_steps:
        values = np.asarray(array)
        if values.shape not in ((number,), (number, 1)):
            raise UserError(
                f"{where} has the shape {values.shape}, but should have one value for each of "
                f"{number} sequences, ({number},), for {problem}."
            )
        return encode_target(values.reshape(-1), name, where, is_class=problem == "classification")
    if isinstance(array, np.ndarray) and array.ndim == 1 and len(array) not in (total,):
        raise UserError(
            f"{where} has the shape {array.shape}, but should have a value for each of {total} "
            "steps for labelling."
        )
    if isinstance(array, np.ndarray) and array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if isinstance(array, np.ndarray) and array.ndim == 1 and number == 1:
        array = array[None]
    of_sequences = _sequences(array, lengths, where)
    for index, (values, length) in enumerate(zip(of_sequences, lengths, strict=True)):
        if values.shape != (length,):
            raise UserError(
                f"{where} has the shape {values.shape} in sequence {index}, but should have a "
                f"value for each of its {length} steps, ({length},)."
            )
    every = np.concatenate(of_sequences)
    target, encoded = encode_target(
        every, name, where, is_class=every.dtype.kind != "f", of_steps=True
    )
    return target, tuple(np.split(encoded, np.cumsum(lengths)[:-1]))


def encode_target(
    values: np.ndarray, name: str, where: str, *, is_class: bool, of_steps: bool = False
) -> tuple[Target, np.ndarray]:
    """Returns a target, and its values as numbers or indices of classes."""
    is_number = values.dtype.kind in "biuf"
    if not is_class:
        numbers = as_numbers(values, where)
        missing = np.flatnonzero(np.isnan(numbers))
        if len(missing) and not of_steps:
            raise UserError(
                f"{where} is NaN at index {missing[0]}. A sequence needs a target; leave it out, "
                "or predict it after the training."
            )
        return Target(name), numbers
    if values.dtype.kind == "f":
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            raise UserError(f"{where} is NaN at index {missing[0]}, but should name a class.")
        if (values != np.round(values)).any():
            index = int(np.flatnonzero(values != np.round(values))[0])
            raise UserError(
                f"{where} is {values[index]:g} at index {index}, but classes should be texts or "
                "integers. For numbers problem is regression."
            )
        values = values.astype(np.int64)
    # As usual, a step that is not labelled has a negative number.
    given = values >= 0 if of_steps and is_number else np.ones(len(values), bool)
    classes = np.unique(values[given])
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"{where} has {len(classes):,} different values, but should have at most "
            f"{MAX_CLASSES:,} classes. Numbers should be floats for labelling, and problem "
            "regression for whole sequences."
        )
    if len(classes) < 2:
        only = f"is {_texts(classes)[0]} everywhere" if len(classes) else "has no class"
        raise UserError(f"{where} {only}, but should have two classes or more.")
    indices = np.where(given, np.searchsorted(classes, values), 0).astype(float)
    return Target(name, _texts(classes)), np.where(given, indices, np.nan)


def _names(values: Any, number: int, where: str) -> tuple[str, ...]:
    if values is None:
        return tuple(map(str, range(number)))
    names = _texts(np.asarray(values))
    if len(names) != number:
        raise UserError(f"{where} has {len(names)} names, but {number} sequences.")
    if len(set(names)) < number:
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where} has the name {twice} more than once.")
    return names


def _split(values: Any, number: int, where: str) -> tuple[str, ...] | None:
    if values is None:
        return None
    parts = _texts(np.asarray(values))
    wrong = next((part for part in parts if part not in PARTS), None)
    if len(parts) != number or wrong is not None:
        raise UserError(
            f"{where}: {SPLIT} should say train, validation or test for each of {number} "
            f"sequences; it has {len(parts)} values{'' if wrong is None else f', one is {wrong}'}."
        )
    return parts
