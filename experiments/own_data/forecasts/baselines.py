"""Forecasts that need no network: the last value, that of a season ago, and a linear map."""

import numpy as np

from experiments.own_data.forecasts.windows import MOST_WINDOWS, Windows
from experiments.own_data.splits import Part
from experiments.own_data.units import window_deviation

# Candidates of the ridge penalty, per window.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MOST_EXAMPLES = 20_000
BATCH = 1000


def last_values(inputs: np.ndarray, num_targets: int, window: int, mean: np.ndarray) -> np.ndarray:
    """Returns the last value of each target in windows, (N, 1, K); the mean if there is none."""
    targets = np.asarray(inputs)[:, :window, :num_targets]
    is_given = np.isfinite(targets)
    latest = window - 1 - is_given[:, ::-1].argmax(axis=1)[:, None]
    last = np.take_along_axis(targets, latest, axis=1)
    return np.where(is_given.any(axis=1, keepdims=True), last, mean)


def seasonal_naive(
    windows: Windows, part: Part, chosen: np.ndarray, season: int, last: np.ndarray
) -> np.ndarray:
    """Returns the values of the latest season before each window's end, (N, horizon, K).

    Where they are missing, or before the sequence's first step, it is the last value (N, 1, K).
    """
    starts = windows.starts[part][chosen, None]
    ahead = np.arange(windows.horizon)
    rows = starts + windows.window + ahead - season * (ahead // season + 1)
    is_before = rows < windows.first[windows.sequence[part][chosen], None]
    values = windows.rows[np.maximum(rows, 0)][..., : windows.num_targets]
    return np.where(is_before[..., None] | np.isnan(values), last, values)


def fit_linear(
    windows: Windows, mean: np.ndarray, deviation: np.ndarray, *, of_windows: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a linear map from a window's differences to its horizon's, shared by all targets.

    It is NLinear (Zeng et al. 2023, arXiv 2205.13504), fitted in closed form to the training part,
    with the ridge penalty of the least validation error.

    Args:
        windows: the windows.
        mean: (1, 1, K), for windows without a value.
        deviation: (1, 1, K), the unit of differences.
        of_windows: whether the unit is each window's own deviation, if it has one.

    Returns:
        The weights (window, horizon) and the bias (horizon,), float32.
    """
    features, targets = differences(
        windows, "train", MOST_EXAMPLES, mean, deviation, of_windows=of_windows
    )
    checked, truth = differences(
        windows, "validation", MOST_WINDOWS["validation"], mean, deviation, of_windows=of_windows
    )
    # The last feature is a constant, which is not penalised.
    features = np.pad(features.astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
    is_missing = np.isnan(targets)
    gram = features.T @ features
    moment = features.T @ np.where(is_missing, 0, targets).astype(np.float64)
    is_penalised = np.append(np.ones(windows.window), 0)
    fits = np.empty((len(PENALTIES), windows.window + 1, windows.horizon))
    for step in range(windows.horizon):
        without = features[is_missing[:, step]]
        of_step = gram - without.T @ without
        for place, penalty in enumerate(PENALTIES):
            ridge = penalty * len(features) * np.diag(is_penalised)
            # A step without any target has no moment, and a singular matrix.
            fits[place, :, step] = np.linalg.lstsq(of_step + ridge, moment[:, step], rcond=None)[0]
    errors = [np.nanmean(np.square(checked @ fit[:-1] + fit[-1] - truth)) for fit in fits]
    best = fits[int(np.argmin(errors))].astype(np.float32)
    return best[:-1], best[-1]


def differences(
    windows: Windows,
    part: Part,
    most: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    *,
    of_windows: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the differences from the last value: of windows (N * K, window), and targets.

    Those of targets (N * K, horizon) are NaN where one is missing; in windows they are 0.
    """
    batch = windows.gather(part, windows.every(part, max(1, most // windows.num_targets)))
    targets = np.asarray(batch.inputs)[:, : windows.window, : windows.num_targets]
    last = last_values(targets, windows.num_targets, windows.window, mean)
    unit = deviation
    if of_windows:
        unit = window_deviation(targets, np.isfinite(targets), deviation, np)
    before, after = ((each - last) / unit for each in (targets, np.asarray(batch.targets)))
    return _by_target(np.nan_to_num(before)), _by_target(after)


def _by_target(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(1, 2).reshape(-1, values.shape[1])
