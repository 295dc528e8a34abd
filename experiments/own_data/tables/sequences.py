"""Sequences that the rows of a table make up: by id, by time, and evenly spaced if asked."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature, Target
from experiments.own_data.tables import columns
from experiments.own_data.tables.files import Table
from experiments.suggest import did_you_mean

FEATURES_AS_TARGETS = ("forecasting", "imputation", "next-token")
# Rows that are added where some are missing, per row of the file.
MOST_ADDED = 20
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
LISTED = 20
# Of steps that are numbers.
ROUNDING = 1e-6


def sequences(table: Table, config: DataConfig, problem: Problem, *, targets: bool) -> Dataset:
    """Returns the sequences of a table.

    Args:
        table: the rows.
        config: what their columns mean.
        problem: what they are read for.
        targets: whether they must have what is to be predicted.

    Raises:
        UserError: a column is absent or a cell does not fit; names file, column and row.
    """
    has_target = problem not in FEATURES_AS_TARGETS
    if has_target and targets:
        _check_column(table, _only_target(config, problem), "data.target")
    names = feature_names(table, config, problem)
    times = None
    if config.time is not None:
        _check_column(table, config.time, "data.time")
        times = columns.times(table, config.time)
    keys, labels, splits = _keys(table, config)
    # Stable: without times, rows keep the file's order.
    order = np.lexsort((keys,) if times is None else (times, keys))
    bounds = np.searchsorted(keys[order], np.arange(len(labels) + 1))
    rows = [order[begin:end] for begin, end in itertools.pairwise(bounds)]
    if times is not None:
        for label, of_sequence in zip(labels, rows, strict=True):
            _check_duplicates(table, config, times, of_sequence, label)
    values, features = _features(table, config, names)
    target, steps = None, None
    if has_target and targets:
        target, steps = _target(table, config, problem)
    places = [np.arange(len(of_sequence)) for of_sequence in rows]
    of_times = None if times is None else [times[of_sequence] for of_sequence in rows]
    notes = []
    if times is not None and any(np.any(np.diff(of_sequence) < 0) for of_sequence in rows):
        notes.append(f"Rows were sorted by {config.time}.")
    if config.step is not None:
        if of_times is None:
            raise UserError(
                "data.step is set, but data.time is not. The step is between the times of rows."
            )
        steady = [
            _even(table, config, of_sequence, at)
            for of_sequence, at in zip(rows, of_times, strict=True)
        ]
        places, of_times = [place for place, _ in steady], [at for _, at in steady]
        added = sum(len(at) - len(place) for place, at in steady)
        gaps = sum(len(at) > len(place) for place, at in steady)
        if added:
            notes.append(
                f"{added:,} rows were missing between others at a step of {config.step}, in {gaps} "
                f"of {len(rows)} sequences. They were added and are masked."
            )
    lengths = [len(place) if at is None else len(at) for place, at in _zip(places, of_times)]

    def spread(array: np.ndarray, missing: float) -> tuple[np.ndarray, ...]:
        spread = []
        for length, place, of_sequence in zip(lengths, places, rows, strict=True):
            whole = np.full((length, *array.shape[1:]), missing, array.dtype)
            whole[place] = array[of_sequence]
            spread.append(whole)
        return tuple(spread)

    of_target = None
    if steps is not None:
        of_target = spread(steps, np.nan)
        if problem in ("classification", "regression"):
            assert target is not None
            of_target = np.array(
                [
                    _of_sequence(table, target, steps, of_sequence, label)
                    for of_sequence, label in zip(rows, labels, strict=True)
                ]
            )
    return Dataset(
        features=features,
        names=tuple(labels),
        inputs=spread(values, np.nan),
        target=target,
        targets=of_target,
        times=None if of_times is None else tuple(of_times),
        lines=spread(table.lines, 0),
        split=splits,
        notes=tuple(notes),
    )


def feature_names(table: Table, config: DataConfig, problem: Problem) -> list[str]:
    """Returns the names of the features: in forecasting the targets, then the other inputs.

    Raises:
        UserError: a column is absent, or has two roles.
    """
    roles = {"data.id": config.id, "data.time": config.time}
    taken = {name: key for key, name in roles.items() if name is not None}
    first = config.target if problem in FEATURES_AS_TARGETS else []
    hidden = set(taken) | set(config.target)
    others = config.inputs
    if others is None:
        others = [name for name in table.cells.column_names if name not in hidden]
    named = [*first, *others, *config.known_ahead]
    for key, listed in (
        ("data.target", first),
        ("data.inputs", others),
        ("data.known_ahead", config.known_ahead),
        ("data.categories", config.categories),
    ):
        for name in listed:
            if key != "data.categories" or name not in config.target:
                _check_column(table, name, key)
            if name in taken and key != "data.categories":
                raise UserError(f"{key} names {name}, but {taken[name]} names it, too.")
            if key in ("data.inputs", "data.known_ahead") and name in config.target:
                raise UserError(
                    f"{key} names {name}, but it is a target: it would be known beforehand."
                )
    if problem == "forecasting" and not config.target:
        raise UserError("data.target is empty, but should name the columns to forecast.")
    names = list(dict.fromkeys(named))
    if not names:
        raise UserError(
            f"{table}: there is no column to predict from; there are only "
            f"{', '.join(table.cells.column_names)}."
        )
    return names


def _check_column(table: Table, name: str, key: str) -> None:
    known = table.cells.column_names
    if name in known:
        return
    listed = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
    message = f"{table} has no column {name!r}, which {key} names. Its columns are {listed}."
    if len(known) == 1 and any(separator in known[0] for separator in ",;\t|"):
        message += " The cells seem to have another separator: see data.separator."
    raise UserError(message + did_you_mean(name, known))


def _only_target(config: DataConfig, problem: Problem) -> str:
    if len(config.target) != 1:
        raise UserError(
            f"data.target is {config.target}, but should be one column: problem is {problem}."
        )
    return config.target[0]


def _keys(table: Table, config: DataConfig) -> tuple[np.ndarray, list[str], tuple[str, ...] | None]:
    """Returns the index of each row's sequence, the sequences' names, and their splits."""
    stems = [path.name.partition(".")[0] for path in table.paths]
    split_of_file = [_split_of(path) for path in stems] if config.split == "file" else None
    if config.id is None:
        names, of_file = stems, np.arange(len(stems))
        if len(set(names)) < len(names):
            names = [str(path) for path in table.paths]
        return table.file, names, None if split_of_file is None else tuple(split_of_file)
    _check_column(table, config.id, "data.id")
    ids = columns.texts(table, config.id)
    missing = np.array([value is None for value in ids])
    if missing.any():
        raise UserError(
            f"{table.where(int(missing.argmax()))}: {config.id} is missing, but every row should "
            "say which sequence it is of."
        )
    keys, found = pd.factorize(ids, sort=True)
    names = [str(name) for name in found]
    if split_of_file is None:
        return keys, names, None
    # The same id in the files of two splits is two sequences.
    splits = list(SPLITS)
    of_file = np.array([splits.index(split) for split in split_of_file])
    pairs, keys = np.unique(keys * len(splits) + of_file[table.file], return_inverse=True)
    of_pairs = [divmod(pair, len(splits)) for pair in pairs.tolist()]
    return (
        keys,
        [names[name] for name, _ in of_pairs],
        tuple(splits[split] for _, split in of_pairs),
    )


def _split_of(stem: str) -> str:
    found = [
        split for split, words in SPLITS.items() if any(word in stem.lower() for word in words)
    ]
    if len(found) != 1:
        raise UserError(
            f"data.split is file, so that the name of each file should say train, validation or "
            f"test, but there is one of the name {stem}."
        )
    return found[0]


def _features(
    table: Table, config: DataConfig, names: Sequence[str]
) -> tuple[np.ndarray, tuple[Feature, ...]]:
    values = np.empty((len(table.lines), len(names)))
    features = []
    for place, name in enumerate(names):
        is_known = name in config.known_ahead
        if name not in config.target and is_category(table, config, name):
            values[:, place], found = columns.categories(table, name, config.decimal)
            features.append(Feature(name, found, is_known))
            continue
        values[:, place] = columns.numbers(table, name, config.decimal)
        features.append(Feature(name, None, is_known))
        if name in config.target:
            _check_varies(table, name, values[:, place])
    return values, tuple(features)


def is_category(table: Table, config: DataConfig, name: str) -> bool:
    """Whether a column names categories: by the config, or because no cell is a number."""
    if name in config.categories:
        return True
    if not columns.is_text(table, name):
        return False
    is_missing = columns.missing_mask(table, name)
    return not (is_missing.all() or columns.number_mask(table, name, config.decimal).any())


def _target(table: Table, config: DataConfig, problem: Problem) -> tuple[Target, np.ndarray]:
    """Returns the target, and its value in each row."""
    name = _only_target(config, problem)
    if columns.missing_mask(table, name).all():
        raise UserError(f"{table}: {name} is missing in every row, but it is the target.")
    named = problem == "classification" or is_category(table, config, name)
    if problem == "regression" and named:
        row = int((~columns.missing_mask(table, name)).argmax())
        raise UserError(
            f"{table.where(row)}: {name} is {str(table.cells[name][row])!r}, but the target of a "
            "regression should be a number. Is the problem a classification?"
        )
    if not named:
        values = columns.numbers(table, name, config.decimal)
        _check_varies(table, name, values)
        return Target(name), values
    indices, classes = columns.categories(table, name, config.decimal)
    if len(classes) == 1:
        raise UserError(
            f"{table}: {name} is {classes[0]!r} in every row, but a target should have two classes "
            "or more."
        )
    return Target(name, classes), indices


def _check_varies(table: Table, name: str, values: np.ndarray) -> None:
    present = values[~np.isnan(values)]
    if not len(present):
        raise UserError(f"{table}: {name} is missing in every row, but it is the target.")
    if present.min() == present.max():
        raise UserError(
            f"{table}: {name} is {present[0]:g} in every row, but a target should vary."
        )


def _of_sequence(
    table: Table, target: Target, values: np.ndarray, rows: np.ndarray, label: str
) -> float:
    """Returns the target of a sequence, which all rows that have one should share."""
    present = rows[~np.isnan(values[rows])]
    if not len(present):
        raise UserError(
            f"{table.where(rows[0])}: {target.name} is missing in all rows of the sequence "
            f"{label}, but it is the target."
        )
    differing = values[present] != values[present[0]]
    if differing.any():
        other = present[int(differing.argmax())]
        cells = table.cells[target.name]
        raise UserError(
            f"{table.where(other)}: {target.name} is {str(cells[other])!r}, but "
            f"{str(cells[present[0]])!r} in {table.where(present[0])}, of the same sequence "
            f"{label}. A target of sequences should be the same in all rows; if each step has its "
            "own, the problem is labelling."
        )
    return float(values[present[0]])


def _check_duplicates(
    table: Table, config: DataConfig, times: np.ndarray, rows: np.ndarray, label: str
) -> None:
    same = times[rows[1:]] == times[rows[:-1]]
    if not same.any():
        return
    place = int(same.argmax())
    one, other = sorted(rows[place : place + 2])
    hint = f"in the sequence {label}"
    if config.id is None:
        hint = "and there is no column of ids. If rows are of several sequences, set data.id"
    raise UserError(
        f"{table.where(other)}: {config.time} is {table.cells[config.time][other]}, as in "
        f"{table.where(one)}, {hint}. A time should occur once in a sequence."
    )


def _even(
    table: Table, config: DataConfig, rows: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of each row among evenly spaced times, and these."""
    assert config.time is not None
    written = [str(table.cells[config.time][int(row)]) for row in (rows[0], rows[-1])]
    grid, tolerance = _grid(config, times, MOST_ADDED * len(rows) + 1)
    if grid is None:
        raise UserError(
            f"{table}: with data.step {config.step}, more than {MOST_ADDED} rows would be added "
            f"for each that there is between {written[0]} and {written[1]}. The step should be "
            "that between most rows."
        )
    places = np.minimum(np.searchsorted(grid, times - tolerance), len(grid) - 1)
    off = np.abs(grid[places] - times) > tolerance
    if off.any():
        row = int(rows[int(off.argmax())])
        raise UserError(
            f"{table.where(row)}: {config.time} is {table.cells[config.time][row]}, which is no "
            f"whole number of steps of {config.step} after the first time, {written[0]}. Set "
            "data.step to null if rows are not evenly spaced."
        )
    return places, grid


def _grid(config: DataConfig, times: np.ndarray, most: int) -> tuple[np.ndarray | None, Any]:
    """Returns evenly spaced times, None if they are more than `most`, and their tolerance."""
    assert config.step is not None
    if times.dtype.kind == "f":
        step = number_of(config.step)
        if step is None:
            raise UserError(
                f"data.step is {config.step!r}, but should be a number above 0: {config.time} "
                "holds numbers."
            )
        count = (times[-1] - times[0]) / step + 1
        if count > most:
            return None, 0.0
        return times[0] + step * np.arange(int(count + ROUNDING)), ROUNDING * step
    offset = offset_of(config.step)
    if offset is None:
        raise UserError(
            f"data.step is {config.step!r}, but should be a time such as 1h, 15min, 1D, or 1MS for "
            "the first of months."
        )
    begin, end = pd.Timestamp(times[0]), pd.Timestamp(times[-1])
    if begin + most * offset < end:
        return None, np.timedelta64(0, "ns")
    grid = pd.date_range(begin, end, freq=offset).to_numpy().astype("datetime64[ns]")
    return grid, np.timedelta64(0, "ns")


def number_of(step: str) -> float | None:
    """Returns the number of a step; None unless it is a finite number above 0."""
    try:
        value = float(step)
    except ValueError:
        return None
    return value if 0 < value < columns.LARGEST_NUMBER else None


def offset_of(step: str) -> Any:
    """Returns pandas' offset of a step such as 1h or 1MS; None unless it is one above 0."""
    try:
        offset = pd.tseries.frequencies.to_offset(step)
    except ValueError:
        return None
    origin = pd.Timestamp("2024-01-01")
    return offset if offset is not None and origin + offset > origin else None


def _zip(places: list[np.ndarray], times: list[np.ndarray] | None) -> list[tuple]:
    return list(zip(places, times or [None] * len(places), strict=True))
