"""Roles of a table's columns, and what their cells and names say of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.own_data.tables import columns
from experiments.own_data.tables.files import Table

ID_NAMES = ("id", "unique_id", "series", "series_id", "sequence")
CLASS_NAMES = ("label", "class", "category", "species", "activity", "state", "diagnosis")


@dataclass
class Roles:
    """The columns' roles, and why.

    Attributes:
        data: values of `DataConfig`.
        reasons: by dotted name of the config, why.
    """

    data: dict[str, Any]
    reasons: dict[str, str]

    def decide(self, key: str, value: Any, reason: str) -> None:
        """Decides on a value, unless it was chosen already."""
        name = f"data.{key}"
        if key not in self.data:
            self.data[key] = value
            self.reasons[name] = reason


def is_number(table: Table, name: str) -> bool:
    """Whether most of a column's cells are numbers, with either decimal mark."""
    present = (~columns.missing_mask(table, name)).sum()
    counts = [columns.number_mask(table, name, decimal).sum() for decimal in ".,"]
    return bool(present) and max(counts) > present / 2


def mostly_numbers(table: Table, name: str, roles: Roles) -> bool:
    decimal = roles.data.get("decimal", ".")
    present = (~columns.missing_mask(table, name)).sum()
    return columns.number_mask(table, name, decimal).sum() > present / 2


def is_mixed(table: Table, name: str, roles: Roles) -> bool:
    """Whether some cells of a column are numbers, but fewer than half."""
    decimal = roles.data.get("decimal", ".")
    some = bool(columns.number_mask(table, name, decimal).any())
    return columns.is_text(table, name) and some and not mostly_numbers(table, name, roles)


def is_whole(table: Table, name: str, roles: Roles) -> bool:
    if not is_number(table, name):
        return False
    mask = columns.number_mask(table, name, roles.data.get("decimal", "."))
    if not (mask | columns.missing_mask(table, name)).all():
        return False
    values = columns.numbers(table, name, roles.data.get("decimal", "."))
    return bool(np.all(np.isnan(values) | (values % 1 == 0)))


def names_classes(name: str) -> bool:
    return any(word in name.lower() for word in (*CLASS_NAMES, "target")) or name.lower() == "y"


def looks_like_id(name: str) -> bool:
    lowered = name.lower()
    return lowered in ID_NAMES or lowered.endswith(("_id", " id", "-id")) or name.endswith("Id")


def rank(name: str, known: Iterable[str]) -> int:
    """Returns a name's place among known names; their number if it is none of them."""
    names = list(known)
    return names.index(name.lower()) if name.lower() in names else len(names)


def first(table: Table, name: str) -> str:
    present = table.cells[name].drop_null()
    return str(present[0]) if len(present) else "missing"


def is_shared(table: Table, name: str, keys: np.ndarray) -> bool:
    """Whether a column has one value in all rows of a sequence, and there are several sequences."""
    counts = pd.Series(columns.texts(table, name)).groupby(keys).nunique().to_numpy()
    return len(counts) > 1 and bool((counts <= 1).all())
