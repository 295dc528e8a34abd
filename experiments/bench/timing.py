"""Timing by rounds: everything once, and again, so that what disturbs the machine disturbs all."""

import functools
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


def interleave_bursts(
    runs: Runs, *, wait: Callable[[Any], object], seconds: float, burst_ms: float = 10.0
) -> dict[str, Spread]:
    """:func:`interleave` for functions that return before a device is done.

    They are called several times in a row before anything waits, so that the device always has
    work and what counts is its time, not the time to hand it over.

    Args:
        runs: what to time, by name; what it returns goes to ``wait``.
        wait: returns once everything that was handed over is done.
        seconds: about how long the rounds take together.
        burst_ms: about how long one burst takes at least.
    """

    def burst(run: Callable[[], Any], calls: int) -> None:
        result = None
        for _ in range(calls):
            result = run()
        wait(result)

    calls = {}
    for name, run in runs.items():
        burst(run, 1)
        started = time.perf_counter()
        burst(run, 1)
        calls[name] = max(1, round(burst_ms * 1e-3 / (time.perf_counter() - started)))
    bursts = {name: functools.partial(burst, run, calls[name]) for name, run in runs.items()}
    times = interleave(bursts, seconds=seconds)
    return {
        name: {
            key: value if key == "rounds" else value / calls[name] for key, value in spread.items()
        }
        for name, spread in times.items()
    }


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
