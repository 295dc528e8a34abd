"""Sequences that the rows of a table make up: by id, by time, and evenly spaced if asked."""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.tables import columns
from experiments.own_data.tables.features import (
    FEATURES_AS_TARGETS,
    check_column,
    feature_names,
    only_target,
    read_features,
    read_target,
    target_of_sequence,
)
from experiments.own_data.tables.files import Table
from experiments.own_data.tables.time_grid import place_evenly

SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


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
        check_column(table, only_target(config, problem), "data.target")
    names = feature_names(table, config, problem)
    times = None
    if config.time is not None:
        check_column(table, config.time, "data.time")
        times = columns.times(table, config.time)
    keys, labels, splits = _keys(table, config)
    rows = _rows_of_sequences(keys, len(labels), times)
    notes = []
    of_times = None
    steps = _Steps(rows, [np.arange(len(each)) for each in rows], [len(each) for each in rows])
    if times is not None:
        of_times = [times[each] for each in rows]
        for label, each in zip(labels, rows, strict=True):
            _check_duplicates(table, config, times, each, label)
        if any(np.any(np.diff(each) < 0) for each in rows):
            notes.append(f"Rows were sorted by {config.time}.")
    if config.step is not None:
        if of_times is None:
            raise UserError(
                "data.step is set, but data.time is not. The step is between the times of rows."
            )
        steps, of_times = _evenly_spaced(table, config, rows, of_times)
        notes += steps.notes_of_added(config.step)
    values, features = read_features(table, config, names, targets=targets)
    target, of_target = None, None
    if has_target and targets:
        target, of_rows = read_target(table, config, problem)
        of_target = steps.spread(of_rows, np.nan)
        if problem in ("classification", "regression"):
            of_target = np.array(
                [
                    target_of_sequence(table, target, of_rows, each, label)
                    for each, label in zip(rows, labels, strict=True)
                ]
            )
    return Dataset(
        features=features,
        names=tuple(labels),
        inputs=steps.spread(values, np.nan),
        target=target,
        targets=of_target,
        times=None if of_times is None else tuple(of_times),
        lines=steps.spread(table.lines, 0),
        split=splits,
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The steps of sequences, and the rows of the table that they come from.

    Attributes:
        rows: of each sequence, the indices of its rows, in the order of time.
        places: of each sequence, the steps of these rows.
        lengths: of each sequence, the number of steps.
    """

    rows: list[np.ndarray]
    places: list[np.ndarray]
    lengths: list[int]

    def spread(self, array: np.ndarray, missing: float) -> tuple[np.ndarray, ...]:
        """Returns the values of rows for each sequence; steps without a row are `missing`."""
        spread = []
        for rows, places, length in zip(self.rows, self.places, self.lengths, strict=True):
            whole = np.full((length, *array.shape[1:]), missing, array.dtype)
            whole[places] = array[rows]
            spread.append(whole)
        return tuple(spread)

    def notes_of_added(self, step: str) -> list[str]:
        """Returns what to tell of steps without a row."""
        added = [
            length - len(places) for length, places in zip(self.lengths, self.places, strict=True)
        ]
        if not any(added):
            return []
        return [
            f"{sum(added):,} rows were missing between others at a step of {step}, in "
            f"{np.count_nonzero(added)} of {len(self.rows)} sequences. They were added and are "
            "masked."
        ]


def _rows_of_sequences(keys: np.ndarray, count: int, times: np.ndarray | None) -> list[np.ndarray]:
    """Returns the rows of each sequence, in the order of time, or else in that of the file."""
    # Stable: without times, rows keep the file's order.
    order = np.lexsort((keys,) if times is None else (times, keys))
    bounds = np.searchsorted(keys[order], np.arange(count + 1))
    return [order[begin:end] for begin, end in itertools.pairwise(bounds)]


def _evenly_spaced(
    table: Table, config: DataConfig, rows: list[np.ndarray], times: list[np.ndarray]
) -> tuple[_Steps, list[np.ndarray]]:
    """Returns steps that are evenly spaced in time, and their times."""
    pairs = [
        place_evenly(table, config, of_sequence, at)
        for of_sequence, at in zip(rows, times, strict=True)
    ]
    grids = [grid for _, grid in pairs]
    return _Steps(rows, [places for places, _ in pairs], list(map(len, grids))), grids


def _keys(table: Table, config: DataConfig) -> tuple[np.ndarray, list[str], tuple[str, ...] | None]:
    """Returns the index of each row's sequence, the sequences' names, and their splits."""
    stems = [path.name.partition(".")[0] for path in table.paths]
    split_of_file = [_split_of(path) for path in stems] if config.split == "file" else None
    if config.id is None:
        names, of_file = stems, np.arange(len(stems))
        if len(set(names)) < len(names):
            names = [str(path) for path in table.paths]
        return table.file, names, None if split_of_file is None else tuple(split_of_file)
    check_column(table, config.id, "data.id")
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
