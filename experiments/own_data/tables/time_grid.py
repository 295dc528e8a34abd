"""Evenly spaced times, among which the rows of a sequence have places."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.tables import columns
from experiments.own_data.tables.files import Table

# Rows that are added where some are missing, per row of the file.
MOST_ADDED = 20
# Of steps that are numbers.
ROUNDING = 1e-6


def place_evenly(
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
        step = _number_of(config.step)
        if step is None:
            raise UserError(
                f"data.step is {config.step!r}, but should be a number above 0: {config.time} "
                "holds numbers."
            )
        count = (times[-1] - times[0]) / step + 1
        if count > most:
            return None, 0.0
        return times[0] + step * np.arange(int(count + ROUNDING)), ROUNDING * step
    offset = _offset_of(config.step)
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


def _number_of(step: str) -> float | None:
    """Returns the number of a step; None unless it is a finite number above 0."""
    try:
        value = float(step)
    except ValueError:
        return None
    return value if 0 < value < columns.LARGEST_NUMBER else None


def _offset_of(step: str) -> Any:
    """Returns pandas' offset of a step such as 1h or 1MS; None unless it is one above 0."""
    try:
        offset = pd.tseries.frequencies.to_offset(step)
    except ValueError:
        return None
    origin = pd.Timestamp("2024-01-01")
    return offset if offset is not None and origin + offset > origin else None
