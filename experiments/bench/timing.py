"""Timing by rounds: everything once, and again, so that what disturbs the machine disturbs all."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Runs = Mapping[str, Callable[[], Any]]
Spread = dict[str, float]


def interleave(
    runs: Runs,
    *,
    seconds: float,
    wait: Callable[[Any], object] = lambda result: None,
    burst_ms: float = 20.0,
) -> dict[str, Spread]:
    """Times functions side by side, in rounds, each in an order of its own.

    Each is called several times in a row, as programs are in use: a call that follows strangers'
    finds their data in the caches, and its own threads asleep or theirs spinning on. In a fixed
    order what one leaves behind would always fall on the same next one.

    Args:
        runs: what to time, by name; what it returns goes to ``wait``.
        seconds: about how long the rounds take together; at least five are made.
        wait: called at the end of a burst, for functions that return before a device is done: the
            device then always has work, and what counts is its time, not that of handing it over.
        burst_ms: about how long a burst takes at least.

    Returns:
        By name, milliseconds per call: the median, the quartiles, the lowest, and the rounds.
    """

    def burst(run: Callable[[], Any], calls: int) -> float:
        started = time.perf_counter()
        result = None
        for _ in range(calls):
            result = run()
        wait(result)
        return (time.perf_counter() - started) * 1e3

    calls = {}
    for name, run in runs.items():
        burst(run, 1)
        calls[name] = max(1, round(burst_ms / burst(run, 1)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for order in shuffled_rounds(list(runs), time.monotonic() + seconds, least=5):
        for name in order:
            times[name].append(burst(runs[name], calls[name]) / calls[name])
    return {name: spread(values) for name, values in times.items()}


def shuffled_rounds(names: Sequence[str], deadline: float, least: int) -> Iterator[list[str]]:
    """Yields the names in an order of its own for each round.

    Args:
        names: what is timed in each round.
        deadline: when, by `time.monotonic()`, no further round begins.
        least: rounds that are made even after the deadline.
    """
    order, shuffle = list(names), random.Random(0).shuffle
    rounds = 0
    while rounds < least or time.monotonic() < deadline:
        shuffle(order)
        yield list(order)
        rounds += 1


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
