"""Tables that tests write."""

import numpy as np
import pandas as pd

from experiments.own_data.config import DataConfig, SequencesConfig
from experiments.runs.config_loading import check

HOUR = np.timedelta64(1, "h")
METERS = {
    "id": "meter",
    "time": "when",
    "target": ["load"],
    "split": "time",
    "step": "1h",
}


def meters(sequences=50, steps=400, seed=0):
    """Loads of meters by the hour: of three kinds, with gaps and missing values, in no order.

    Each kind has a profile of the day. A meter's profile is full or halved, which changes now and
    then: a network can find out which, a linear map cannot.
    """
    rng = np.random.default_rng(seed)
    profiles = {
        "shop": lambda hour: np.clip(np.sin(np.pi * (hour - 8) / 12), 0, None),
        "office": lambda hour: ((hour > 8) & (hour < 18)).astype(float),
        "plant": lambda hour: 0.5 + 0.5 * np.cos(2 * np.pi * hour / 12),
    }
    tables = []
    for index in range(sequences):
        kind = list(profiles)[index % 3]
        level = 10 + 40 * rng.random()
        profile = profiles[kind]((np.arange(steps) + index) % 24)
        is_full = np.cumsum(rng.random(steps) < 0.02) % 2
        noise = np.zeros(steps)
        for step in range(1, steps):
            noise[step] = 0.8 * noise[step - 1] + 0.03 * level * rng.normal()
        load = level + noise + level * 0.4 * profile * (0.5 + 0.5 * is_full)
        load[rng.random(steps) < 0.02] = np.nan
        times = np.datetime64("2024-01-01T00", "ns") + np.arange(steps) * HOUR
        table = pd.DataFrame(
            {"meter": f"m{index:02}", "when": times, "kind": kind, "load": load.round(3)}
        )
        tables.append(table[rng.random(steps) > 0.05])
    return pd.concat(tables).sample(frac=1, random_state=seed).reset_index(drop=True)


def data_config(path, **changes):
    """Returns the config of a table's columns."""
    return check(DataConfig, {**METERS, "path": str(path), **changes}, where="test")


def config(path, **changes):
    """Returns the config of a small forecast of such a table."""
    values = {
        "task": "sequences",
        "problem": "forecasting",
        "data": {**METERS, "path": str(path), **changes.pop("data", {})},
        "model": {"hidden_size": 6},
        "window": 24,
        "horizon": 6,
        "season": 24,
        "training": {"steps": 6, "batch_size": 8, "eval_every": 3, "log_every": 2},
        **changes,
    }
    return check(SequencesConfig, values, where="test")
