"""Where new sequences end, and the times of the steps that follow."""

import numpy as np

from experiments.errors import UserError
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset


def last_window(
    config: SequencesConfig, dataset: Dataset, aligned: tuple[np.ndarray, ...], reads_ahead: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sequences' indices (N,), and the inputs (N, steps, F) from which they go on.

    The window ends with the last step that has a target. Steps before the first are missing.

    Raises:
        UserError: a sequence has no target, or too few steps after the last that has one, of which
            features are known ahead.
    """
    num_targets = len(config.data.target)
    inputs = []
    for name, values in zip(dataset.names, aligned, strict=True):
        end = last_step(values, num_targets) + 1
        if not end:
            raise UserError(
                f"{config.data.path}: the sequence {name} has no value of "
                f"{' or '.join(config.data.target)}, from which to forecast."
            )
        window = values[max(0, end - config.window) : end]
        window = np.pad(window, ((config.window - len(window), 0), (0, 0)), constant_values=np.nan)
        if reads_ahead:
            ahead = values[end : end + config.horizon].copy()
            if len(ahead) < config.horizon:
                raise UserError(
                    f"{config.data.path}: the sequence {name} has {len(ahead)} rows after its last "
                    f"value of {config.data.target[0]}, but {config.horizon} are to be forecast. "
                    f"Their {', '.join(config.data.known_ahead)} should be given."
                )
            window = np.concatenate([window, ahead])
        inputs.append(window)
    return np.arange(len(inputs)), np.stack(inputs).astype(np.float32)


def last_step(values: np.ndarray, num_targets: int) -> int:
    """Returns the last step of (T, F) with a target; -1 if there is none."""
    given = np.flatnonzero(np.isfinite(values[:, :num_targets]).any(axis=1))
    return int(given[-1]) if len(given) else -1


def future_times(config: SequencesConfig, dataset: Dataset) -> tuple[np.ndarray, ...] | None:
    """Returns the times of the steps of the horizon of each sequence; None without times."""
    if dataset.times is None:
        return None
    columns = [feature.name for feature in dataset.features]
    places = [columns.index(name) for name in config.data.target]
    found = []
    for values, times in zip(dataset.inputs, dataset.times, strict=True):
        end = last_step(values[:, places], len(places)) + 1
        given = times[end : end + config.horizon]
        missing = config.horizon - len(given)
        if missing:
            given = np.concatenate([given, _after(config, times, missing)])
        found.append(given)
    return tuple(found)


def _after(config: SequencesConfig, times: np.ndarray, count: int) -> np.ndarray:
    """Returns the times that follow, at the config's step or at the last one."""
    if config.data.step is not None and times.dtype.kind == "M":
        # Of months, whose lengths differ.
        import pandas as pd

        offset = pd.tseries.frequencies.to_offset(config.data.step)
        index = pd.date_range(pd.Timestamp(times[-1]), periods=count + 1, freq=offset)
        return index.to_numpy()[1:].astype(times.dtype)
    if config.data.step is not None:
        step = float(config.data.step)
    else:
        # A single step tells no distance.
        step = times[-1] - times[-2] if len(times) > 1 else (times - times)[0]
    return times[-1] + step * np.arange(1, count + 1)
