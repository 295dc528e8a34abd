"""Timing by rounds: everything once, and again, so that what disturbs the machine disturbs all."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Runs = Mapping[str, Callable[[], Any]]
Spread = dict[str, float]


def interleave(runs: Runs, *, seconds: float, calls: int = 1) -> dict[str, Spread]:
    """Times functions side by side, in rounds, each in an order of its own.

    What one leaves behind (threads that spin on for a while, memory that goes back to the
    system) falls on whichever comes next; in a fixed order that would always be the same one.

    Args:
        runs: what to time, by name; each returns when its work is done.
        seconds: about how long the rounds take together; at least five are made.
        calls: how often a function is called in one measurement, for those that are quick.

    Returns:
        By name, milliseconds per call: the median, the quartiles, the lowest, and the rounds.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    begin = time.perf_counter()
    while min(map(len, times.values())) < 5 or time.perf_counter() - begin < seconds:
        shuffle(order)
        for name in order:
            started = time.perf_counter()
            for _ in range(calls):
                runs[name]()
            times[name].append((time.perf_counter() - started) / calls * 1e3)
    return {name: spread(values) for name, values in times.items()}


def spread(values: list[float]) -> Spread:
    """Median, quartiles, minimum and number of measurements."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "min": min(values),
        "rounds": len(values),
    }
