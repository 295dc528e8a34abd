"""Arrays: an .npz file, an .npy file, or a folder of .npy files. Nothing is unpickled.

An array of inputs has the shape (N, T) or (N, T, D), or with `lengths` (N,) the steps of all
sequences one after the other, (sum of lengths,) or (sum of lengths, D).
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature, Target
from experiments.own_data.folders import LabelledFile, class_column, labelled_files
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal
from experiments.own_data.written import write_predictions_csv

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.own_data.model import Predictions

INPUTS, TARGET, LENGTHS, NAMES, SPLIT = "x", "y", "lengths", "names", "split"
LARGEST = 8 * 2**30
"""Bytes of all arrays."""
MAX_CLASSES = 1000
FEW = 50
"""Different integers that are taken for classes, not for numbers."""
PARTS = ("train", "validation", "test")
Arrays = Mapping[str, Any]


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    if Path(path).is_dir():
        return propose_folder(path, chosen, labelled_files(path, (".npy",), [], targets=True))
    return propose(path, chosen, read_arrays(Path(path)))


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    path = Path(config.path)
    if not path.is_dir():
        return dataset_of(read_arrays(path), config, problem, targets=targets)
    files = labelled_files(config.path, (".npy",), config.target, targets=targets)
    sequences = []
    for file in files:
        values = _numbers(read_arrays(file.path)[INPUTS], str(file.path))
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2:
            raise UserError(f"{file.path} has the shape {values.shape}, but should be (T, D).")
        if sequences and values.shape[1] != sequences[0].shape[1]:
            raise UserError(
                f"{file.path} has {values.shape[1]} features, but {files[0].path} has "
                f"{sequences[0].shape[1]}."
            )
        sequences.append(values)
    names = _feature_names(INPUTS, sequences[0].shape[1])
    return folder_dataset(files, sequences, names, config, problem, targets=targets)


def write_predictions(
    config: DataConfig, dataset: Dataset, predictions: "Predictions", output: Path, /
) -> None:
    """Writes a .csv file; see :func:`write_predictions_csv`."""
    write_predictions_csv(dataset, predictions, output)


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
        target, values = _encoded(labels, name, config.path, is_class=problem == "classification")
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
    are_numbers = all(_is_number(label) for label in labels) and len(labels) > FEW
    guess: Problem = "regression" if are_numbers else "classification"
    problem = chosen.get("problem", guess)
    data = {"target": [column], "split": "sequence"}
    why = "files are divided within each class"
    if all(file.split for file in files):
        data["split"], why = "file", "the folders or the table of labels say so"
    return Proposal(
        problem,
        {**data, **_chosen_data(chosen)},
        {**training_settings(round(0.7 * len(files))), **_chosen_settings(chosen)},
        {
            "problem": f"{len(labels)} different values of {column}: {', '.join(labels[:8])}",
            "data.path": f"{len(files):,} files",
            "data.split": why,
        },
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an .npz file, or an .npy file as the array `x`.

    Raises:
        UserError: it is none, holds Python objects, is damaged or is too large.
    """
    try:
        if path.name.lower().endswith(".npy"):
            with path.open("rb") as file:
                return {INPUTS: _read_array(file, path.stat().st_size, str(path))}
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            size = sum(member.file_size for member in members)
            if size > LARGEST:
                raise UserError(
                    f"{path} holds {size / 2**30:.1f} GiB, but at most {LARGEST // 2**30} GiB are "
                    "read. A function can return parts of it: data.format is function then."
                )
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file, member.file_size, f"{path}: {name}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not an .npz file that can be read: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not arrays:
        raise UserError(f"{path} holds no arrays.")
    return arrays


def _read_array(file: Any, size: int, where: str) -> np.ndarray:
    try:
        shape, is_fortran, dtype = _read_header(file)
    except (ValueError, EOFError, TypeError) as error:
        first = str(error).splitlines()[0][:200]
        raise UserError(f"{where} is not an array in NumPy's format: {first}.") from None
    if dtype.hasobject:
        raise UserError(
            f"{where} holds Python objects, which are not read: they could run code. Sequences of "
            "unequal lengths are given one after the other, with the array lengths."
        )
    if dtype.kind not in "biufUS":
        raise UserError(f"{where} has the dtype {dtype}, but should be numbers or texts.")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size or needed > LARGEST:
        raise UserError(f"{where} is truncated: its header says {shape} of {dtype}.")
    content = file.read(needed)
    if len(content) < needed:
        raise UserError(f"{where} is truncated: its header says {shape} of {dtype}.")
    order = "F" if is_fortran else "C"
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order=order)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    # The public readers want a file that starts at the version.
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"the version {version} of the format is not supported")
    return readers[version](file)


def propose(where: str, chosen: Mapping[str, Any], arrays: Arrays) -> Proposal:
    """Proposes a config for arrays."""
    target = [*chosen.get("data.target", [TARGET] if TARGET in arrays else [])]
    data: dict[str, Any] = {"target": target, "split": "sequence", **_chosen_data(chosen)}
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
        {**settings, **_chosen_settings(chosen)},
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


def token_settings(tokens: int) -> dict[str, Any]:
    """Returns settings of a config for a text of so many tokens."""
    window, batch_size = 64, 16
    while batch_size > 1 and tokens // 2 < 4 * window * batch_size:
        batch_size //= 2
    return {
        **training_settings(tokens // 10),
        "model.hidden_size": 128,
        "model.dropout": 0.0 if tokens > 10**6 else 0.2,
        "window": window if tokens > 4 * window else max(1, tokens // 8),
        "training.batch_size": batch_size,
    }


def _guess(where: str, arrays: Arrays, target: list[str]) -> tuple[Problem | None, str]:
    if not target or target[0] not in arrays:
        inputs = arrays.get(INPUTS)
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iu" and inputs.ndim < 3:
            return "next-token", f"{INPUTS} has integers, and there is no array {TARGET}"
        return None, ""
    if _is_ragged(arrays[target[0]]):
        return "labelling", f"{target[0]} has a value for each step"
    values = np.asarray(arrays[target[0]])
    if values.ndim == 2 or len(values) != _number_of_sequences(arrays):
        return "labelling", f"{target[0]} has a value for each step"
    are_numbers = values.dtype.kind == "f" or (
        values.dtype.kind in "iu" and len(np.unique(values)) > FEW
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
    return len(inputs) if _is_ragged(inputs) or np.ndim(inputs) > 1 else 1


def _is_ragged(array: Any) -> bool:
    """Whether it is a list of arrays, one for each sequence."""
    return isinstance(array, list | tuple) and len(array) > 0 and np.ndim(array[0]) > 0


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
            Feature(each, categories) for each in _feature_names(name, converted[0].shape[1])
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
        return [_numbers(values, where) for values in shaped], None
    every = np.unique(np.concatenate([np.unique(values) for values in shaped]))
    return [np.searchsorted(every, values).astype(float) for values in shaped], _texts(every)


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
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


def _feature_names(name: str, width: int) -> list[str]:
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
        return _encoded(values.reshape(-1), name, where, is_class=problem == "classification")
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
    target, encoded = _encoded(every, name, where, is_class=every.dtype.kind != "f", of_steps=True)
    return target, tuple(np.split(encoded, np.cumsum(lengths)[:-1]))


def _encoded(
    values: np.ndarray, name: str, where: str, *, is_class: bool, of_steps: bool = False
) -> tuple[Target, np.ndarray]:
    """Returns a target, and its values as numbers or indices of classes."""
    is_number = values.dtype.kind in "biuf"
    if not is_class:
        numbers = _numbers(values, where)
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


def _chosen_data(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {key[5:]: value for key, value in chosen.items() if key.startswith("data.")}


def _chosen_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if not key.startswith(("data.", "problem"))}
