"""Which columns of a table tell its sequences apart, and which orders the rows of each."""

import numpy as np
import pandas as pd

from experiments.own_data.tables import columns
from experiments.own_data.tables.files import Table
from experiments.own_data.tables.roles import (
    ID_NAMES,
    Roles,
    first,
    is_number,
    is_whole,
    looks_like_id,
    rank,
)

TIME_NAMES = ("time", "date", "datetime", "timestamp", "ds", "t", "step", "ts", "day", "year")


def decide_time(table: Table, roles: Roles) -> None:
    if "time" in roles.data:
        return
    taken = {roles.data.get("id"), *roles.data.get("target", [])}
    free = [name for name in table.cells.column_names if name not in taken]
    written = [name for name in free if columns.looks_like_times(table, name)]
    if written:
        name = min(written, key=lambda name: rank(name, TIME_NAMES))
        return roles.decide("time", name, f"its cells are times such as {first(table, name)}")
    counted = [
        name for name in free if rank(name, TIME_NAMES) < len(TIME_NAMES) and is_number(table, name)
    ]
    for name in sorted(counted, key=lambda name: rank(name, TIME_NAMES)):
        values = columns.numbers(table, name, roles.data.get("decimal", "."))
        if not np.isnan(values).any() and len(np.unique(values)) > 2:
            return roles.decide("time", name, "its name, and its cells are numbers")
    roles.reasons["data.time"] = "no column holds times: rows are in the order of the file"
    return None


def decide_id(table: Table, roles: Roles) -> None:
    if "id" in roles.data:
        return
    taken = {roles.data.get("time"), *roles.data.get("target", [])}
    free = [name for name in table.cells.column_names if name not in taken]
    named = sorted(
        (name for name in free if looks_like_id(name)), key=lambda name: rank(name, ID_NAMES)
    )
    time = roles.data.get("time")
    times = None if time is None else columns.times(table, time)
    if times is not None and len(np.unique(times)) < len(times):
        texts = [
            name for name in free if columns.is_text(table, name) and not is_number(table, name)
        ]
        whole = [name for name in free if is_whole(table, name, roles)]
        for name in dict.fromkeys([*named, *texts, *whole]):
            keys, found = pd.factorize(columns.texts(table, name))
            pairs = pd.DataFrame({"key": keys, "time": times})
            if len(found) < len(keys) and not pairs.duplicated().any():
                reason = f"each time of {time} occurs once for each of its {len(found):,} values"
                return roles.decide("id", name, reason)
    for name in named:
        count = len(table.cells[name].unique())
        if 1 < count <= len(table.lines) / 2 and not columns.missing_mask(table, name).any():
            return roles.decide("id", name, f"its name; it has {count:,} values")
    if time is None and free and _is_in_blocks(table, free[0], roles):
        count = len(table.cells[free[0]].unique())
        reason = f"its {count:,} values are in blocks of rows, and nothing else is a time"
        return roles.decide("id", free[0], reason)
    one = "each file is a sequence" if len(table.paths) > 1 else "all rows are one sequence"
    roles.reasons["data.id"] = f"no column seems to name sequences: {one}"
    return None


def decide_counter(table: Table, roles: Roles, keys: np.ndarray) -> None:
    """Decides that a column that counts the rows of each sequence is the time."""
    taken = {roles.data.get("id"), *roles.data.get("target", [])}
    if "time" in roles.data or roles.data.get("id") is None:
        return
    for name in table.cells.column_names:
        if name in taken or not is_whole(table, name, roles):
            continue
        values = columns.numbers(table, name, roles.data.get("decimal", "."))
        order = np.lexsort((values, keys))
        steps = np.diff(values[order])[np.diff(keys[order]) == 0]
        if len(steps) and (steps == 1).all():
            return roles.decide("time", name, "it counts the rows of each sequence")
    return None


def sequence_keys(table: Table, roles: Roles) -> np.ndarray:
    name = roles.data.get("id")
    return table.file if name is None else pd.factorize(columns.texts(table, name), sort=True)[0]


def _is_in_blocks(table: Table, name: str, roles: Roles) -> bool:
    """Whether each value of a column is in one run of two rows or more."""
    if columns.missing_mask(table, name).any():
        return False
    if is_number(table, name) and not is_whole(table, name, roles):
        return False
    keys, found = pd.factorize(columns.texts(table, name))
    runs = 1 + int(np.count_nonzero(np.diff(keys)))
    return 1 < len(found) == runs and bool(np.bincount(keys).min() > 1)
