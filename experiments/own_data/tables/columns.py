"""Columns of a table as numbers, categories and times. What does not fit is told with its row."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from experiments.errors import UserError
from experiments.own_data.tables.files import NUMBER, Table

# Its functions are made when it is imported.
pc: Any = pyarrow.compute

# Squares of standardised numbers are float32.
LARGEST_NUMBER = 1e30
YEARS = (1700, 2200)
MAX_CATEGORIES = 1000
IS_NUMBER = f"^(?:{NUMBER.pattern})$"
DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
INFINITE = r"(?i)^[+-]?inf(inity)?$"
ZONE = r":\d\d(?:\.\d+)? ?(?:Z|[+-]\d\d:?\d\d)$"
COMPACT_DATE = r"^(?:19|20|21)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$"
DAYS_AND_MONTHS = [
    f"{date}{time}"
    for date in ("%d.%m.%Y", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
    for time in ("", " %H:%M", " %H:%M:%S")
]

FORMATS = ("ISO8601", *DAYS_AND_MONTHS)
# Different times from which likely formats follow.
SAMPLE = 50


def is_text(table: Table, name: str) -> bool:
    """Whether a column holds texts, such as those of every column of a text file."""
    return pa.types.is_large_string(table.cells[name].type)


def is_time(table: Table, name: str) -> bool:
    """Whether a column of a Parquet file holds times."""
    kind = table.cells[name].type
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def number_mask(table: Table, name: str, decimal: str) -> np.ndarray:
    """Returns which cells of a column are finite numbers: (rows,) booleans."""
    key = name, decimal
    if key not in table.masks:
        table.masks[key] = _number_mask(table, name, decimal)
    return table.masks[key]


def missing_mask(table: Table, name: str) -> np.ndarray:
    """Returns which cells of a column are missing: (rows,) booleans."""
    column = table.cells[name]
    nan_is_null = pa.types.is_floating(column.type)
    return pc.is_null(column, nan_is_null=nan_is_null).to_numpy()


def numbers(table: Table, name: str, decimal: str = ".") -> np.ndarray:
    """Returns a column as float64 (rows,), NaN where it is missing.

    Raises:
        UserError: a cell is no finite number of at most 1e30.
    """
    column = table.cells[name]
    is_number = number_mask(table, name, decimal)
    wrong = ~is_number & ~missing_mask(table, name)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(_not_a_number(table, name, row, is_number, decimal))
    if is_text(table, name):
        # Arrow's parser knows no plus sign.
        column = pc.replace_substring_regex(_with_point(column, decimal), r"^\+", "")
    values = column.cast(pa.float64(), safe=False).to_numpy()
    wrong = np.abs(values) > LARGEST_NUMBER
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{table.where(row)}: {name} is {table.cells[name][row]}, but a number should be at "
            f"most {LARGEST_NUMBER:g}."
        )
    return values


def texts(table: Table, name: str, decimal: str = ".") -> np.ndarray:
    """Returns a column as an array (rows,) of texts, None where it is missing.

    Whole numbers are written without a point, so that 1 and 1.0 are the same category.
    """
    column = table.cells[name]
    if is_time(table, name):
        return column.cast(pa.string()).to_numpy()
    if pa.types.is_integer(column.type):
        # Beyond 2**53 they are no float64.
        return column.cast(pa.string()).to_numpy()
    is_number = number_mask(table, name, decimal) | missing_mask(table, name)
    if is_text(table, name) and not (is_number.all() and _holds_points(column, decimal)):
        return column.to_numpy()
    values = numbers(table, name, decimal)
    found, indices = np.unique(values[~np.isnan(values)], return_inverse=True)
    written = np.array([f"{value:.0f}" if value % 1 == 0 else repr(value) for value in found])
    result = np.full(len(values), None, object)
    result[~np.isnan(values)] = written.astype(object)[indices]
    return result


def categories(table: Table, name: str, decimal: str = ".") -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a column as indices of categories and their names.

    Returns:
        The indices, float64 (rows,), NaN where it is missing, and the names, in the order of
        numbers if all are numbers, otherwise of texts.

    Raises:
        UserError: there are more than 1,000 categories.
    """
    codes, found = pd.factorize(texts(table, name, decimal), sort=True)
    if len(found) > MAX_CATEGORIES:
        raise UserError(
            f"{table}: {name} has {len(found):,} different texts, but a column of categories "
            f"should have at most {MAX_CATEGORIES:,}. Leave it out of data.inputs."
        )
    names = [str(text) for text in found]
    if all(NUMBER.fullmatch(text) for text in names):
        names.sort(key=float)
    rank = {text: place for place, text in enumerate(names)}
    # The code of a missing value is -1.
    ranks = np.array([*(rank[text] for text in found), np.nan])
    return ranks[codes], tuple(names)


def times(table: Table, name: str) -> np.ndarray:
    """Returns a column of times (rows,): datetime64[ns], or float64 for numbers.

    Times with zones become UTC. Dates of eight digits, such as 20240131, are no numbers.

    Raises:
        UserError: a time is missing, cannot be read, is ambiguous or absurd, or only some have a
            time zone.
    """
    column = table.cells[name]
    is_missing = missing_mask(table, name)
    if is_missing.any():
        row = int(is_missing.argmax())
        raise UserError(f"{table.where(row)}: {name} is missing, but every row should have a time.")
    if is_time(table, name):
        found = pd.Series(column.to_numpy())
    elif not is_text(table, name):
        return numbers(table, name)
    elif _all_match(column, COMPACT_DATE):
        found = pd.to_datetime(_strings(column), format="%Y%m%d", errors="coerce")
    elif _all_match(column, IS_NUMBER):
        return numbers(table, name)
    else:
        found = _parsed(table, name)
    years = found.dt.year.to_numpy()
    wrong = found.isna().to_numpy() | (years < YEARS[0]) | (years >= YEARS[1])
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{table.where(row)}: {name} is {str(column[row])!r}, but should be a time such as "
            f"2024-01-31 14:00, of the years {YEARS[0]} to {YEARS[1] - 1}."
        )
    return found.to_numpy().astype("datetime64[ns]")


def looks_like_times(table: Table, name: str) -> bool:
    """Whether a column's first cells are times, numbers left out."""
    if is_time(table, name):
        return True
    if not is_text(table, name):
        return False
    sample = table.cells[name].slice(0, SAMPLE).drop_null()
    if not len(sample):
        return False
    if _all_match(sample, COMPACT_DATE):
        return True
    if pc.any(pc.match_substring_regex(sample, IS_NUMBER)).as_py():
        return False
    series = _strings(sample)
    return any(_as_times(series, each).notna().mean() > 0.9 for each in FORMATS)


def _number_mask(table: Table, name: str, decimal: str) -> np.ndarray:
    column = table.cells[name]
    if is_time(table, name):
        return np.zeros(len(column), bool)
    if is_text(table, name):
        mask = pc.match_substring_regex(_with_point(column, decimal), IS_NUMBER)
    else:
        mask = pc.is_finite(column.cast(pa.float64(), safe=False))
    return pc.fill_null(mask, False).to_numpy()


def _parsed(table: Table, name: str) -> pd.Series:
    """Returns times written as text, NaT where one cannot be read."""
    column = table.cells[name]
    has_zone = pc.match_substring_regex(column, ZONE).to_numpy()
    if has_zone.any() and not has_zone.all():
        one, other = int(has_zone.argmax()), int((~has_zone).argmax())
        raise UserError(
            f"{table.where(other)}: {name} is {str(column[other])!r}, without a time zone, but "
            f"{str(column[one])!r} in {table.where(one)} has one. All times should, or none."
        )
    # Sequences share their times.
    codes, texts = pd.factorize(column.to_numpy())
    series = pd.Series(texts, dtype=object)
    sample = series.head(SAMPLE)
    likely = [each for each in FORMATS if _as_times(sample, each).notna().all()]
    found = {each: _as_times(series, each) for each in likely or FORMATS}
    complete = [each for each in found if found[each].notna().all()]
    differing = [each for each in complete if not found[each].equals(found[complete[0]])]
    if differing:
        raise UserError(
            f"{table.where(0)}: {name} is {str(column[0])!r}, which may be day and month or month "
            "and day, as in all rows. Write the year first, such as 2024-01-31."
        )
    best = complete[0] if complete else max(found, key=lambda each: found[each].notna().sum())
    return found[best].iloc[codes].reset_index(drop=True)


def _as_times(series: pd.Series, format: str) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = pd.to_datetime(series, format=format, errors="coerce", utc=True)
    return parsed.dt.tz_localize(None)


def _strings(column: pa.ChunkedArray) -> pd.Series:
    return pd.Series(column.to_numpy(), dtype=object)


def _with_point(column: pa.ChunkedArray, decimal: str) -> pa.ChunkedArray:
    if decimal == ".":
        return column
    # A point is no decimal mark then: 1.234,5 is not read as 1.2345.
    pointed = pc.replace_substring(column, ".", " ")
    return pc.replace_substring(pointed, ",", ".")


def _holds_points(column: pa.ChunkedArray, decimal: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(column, rf"[{decimal}eE+]")).as_py())


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())


def _not_a_number(table: Table, name: str, row: int, is_number: np.ndarray, decimal: str) -> str:
    value: Any = table.cells[name][row].as_py()
    shown = repr(value)
    message = (
        f"{table.where(row)}: {name} is {shown if len(shown) < 80 else shown[:80] + '...'}, but "
        "should be a finite number, or empty where it is missing"
    )
    if is_text(table, name) and decimal == "." and _matches(value, DECIMAL_COMMA):
        return f"{message}. If the comma is a decimal mark, set data.decimal to ','."
    count = int(is_number.sum())
    if count and is_text(table, name) and not _matches(value, INFINITE):
        return (
            f"{message}; {count:,} cells of {name} are numbers. If they name categories, add "
            f"{name} to data.categories."
        )
    return f"{message}."


def _matches(value: str, pattern: str) -> bool:
    return bool(pc.match_substring_regex(pa.array([value]), pattern)[0].as_py())
