"""Steps between times, the season of a series, and window and horizon that follow from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.own_data.dataset import Dataset
from experiments.own_data.tables.time_grid import MOST_ADDED

# Steps whose length varies, or that leave out days: their names are of pandas.
CALENDAR = ("MS", "ME", "QS", "QE", "YS", "YE", "B")
# Steps of a period by the step.
OF_STEP = {
    "1min": 60,
    "5min": 288,
    "10min": 144,
    "15min": 96,
    "30min": 48,
    "1h": 24,
    "1D": 7,
    "7D": 52,
    "1B": 5,
    "1MS": 12,
    "1ME": 12,
    "1QS": 4,
    "1QE": 4,
}
# The units of NumPy by pandas' name.
UNITS = {"D": "D", "h": "h", "m": "min", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
LONGEST_SEASON = 400
LEAST_CORRELATION = 0.3
LONGEST_HORIZON = 96
LONGEST_WINDOW = 192


def step_of(times: np.ndarray, keys: np.ndarray, steps: np.ndarray) -> tuple[str | None, str]:
    """Returns the step between rows, as `DataConfig.step`, or None; and why.

    Args:
        times: (rows,) of all rows.
        keys: (rows,) index of the sequence of each.
        steps: the differences of times within sequences, in their order.
    """
    values, counts = np.unique(steps, return_counts=True)
    usual = values[counts.argmax()]
    share = f"{counts.max() / len(steps):.0%} of rows are this far from the one before"
    added = (steps / usual).sum() - len(steps)
    if np.allclose(steps / usual % 1, 0) and added <= MOST_ADDED * len(steps):
        if usual.dtype.kind == "m":
            return _in_words(usual), share
        return f"{usual:g}", share
    if times.dtype.kind == "M":
        for name in CALENDAR:
            offset: Any = pd.tseries.frequencies.to_offset(name)
            index = pd.DatetimeIndex(np.unique(times))
            is_daily = bool(np.array_equal(index, index.normalize()))
            if is_daily and all(offset.is_on_offset(day) for day in index):
                most = MOST_ADDED * len(times)
                if index[0] + most * offset >= index[-1] and (name != "B" or _is_daily(values)):
                    return f"1{name}", "all times are of this calendar"
    return None, "rows are not evenly spaced: no rows are added"


def _in_words(step: np.timedelta64) -> str:
    """Returns a step in the largest unit of which it is a multiple."""
    unit = next(unit for unit in UNITS if step % np.timedelta64(1, unit) == np.timedelta64(0, "ns"))
    return f"{step // np.timedelta64(1, unit)}{UNITS[unit]}"


def _is_daily(steps: np.ndarray) -> bool:
    return bool(steps.min() == np.timedelta64(1, "D"))


def decide(
    dataset: Dataset, data: Mapping[str, Any], chosen: Mapping[str, Any], reasons: dict[str, str]
) -> dict[str, Any]:
    """Decides on season, horizon and window of a forecast; adds to the reasons."""
    lengths = np.array([len(inputs) for inputs in dataset.inputs])
    # Fractions of validation and test are the defaults.
    longest = int(np.median(lengths))
    season = chosen.get("season") or _season(dataset, data.get("step"), reasons)
    horizon = chosen.get("horizon")
    if horizon is None:
        horizon = min(season or 12, LONGEST_HORIZON, max(1, int(0.15 * longest) // 2))
        reasons["horizon"] = "a season" if horizon == season else "short enough for these sequences"
    window = chosen.get("window")
    if window is None:
        most = max(1, int(0.7 * longest) - 2 * horizon)
        window = max(1, min(max(2 * (season or 0), 2 * horizon, 24), most, LONGEST_WINDOW))
        reasons["window"] = (
            "two seasons"
            if season and window == 2 * season
            else f"at most what sequences of {longest:,} steps allow"
        )
        if data.get("known_ahead"):
            window = max(window, horizon)
    settings = {"window": window, "horizon": horizon}
    if season is not None:
        settings["season"] = season
    return settings


def _season(dataset: Dataset, step: str | None, reasons: dict[str, str]) -> int | None:
    """Returns the lag of the largest autocorrelation, or the usual season of a step."""
    usual = OF_STEP.get(step or "")
    longest = max(dataset.inputs, key=len)[:, 0]
    # The part for training; what comes later does not decide.
    series = longest[: int(0.7 * len(longest))]
    correlations = _autocorrelations(series, min(LONGEST_SEASON, len(series) // 3))
    if usual is not None and usual < len(correlations):
        near = correlations[usual]
        if near > LEAST_CORRELATION:
            reasons["season"] = f"usual at a step of {step}; its autocorrelation is {near:.2f}"
            return usual
    peaks = [
        lag
        for lag in range(2, len(correlations) - 1)
        if correlations[lag] > max(correlations[lag - 1], correlations[lag + 1], LEAST_CORRELATION)
    ]
    if peaks:
        best = max(peaks, key=lambda lag: correlations[lag])
        reasons["season"] = f"the lag of the largest autocorrelation, {correlations[best]:.2f}"
        return best
    return None


def _autocorrelations(series: np.ndarray, most: int) -> np.ndarray:
    """Returns the autocorrelations of a series without its linear trend at lags 0 to `most`."""
    steps = np.arange(len(series))
    present = np.isfinite(series)
    if present.sum() < 3:
        return np.zeros(1)
    trend = np.polynomial.Polynomial.fit(steps[present], series[present], 1)
    rest = np.where(present, series - trend(steps), 0.0)
    variance = np.square(rest).sum()
    if variance == 0:
        return np.zeros(1)
    spectrum = np.fft.rfft(rest, 2 * len(rest))
    return np.fft.irfft(np.abs(spectrum) ** 2)[: most + 1] / variance
