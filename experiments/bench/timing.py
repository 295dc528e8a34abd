"""Timing in interleaved rounds, so that disturbances of the machine affect all functions alike."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Runs = Mapping[str, Callable[[], Any]]
Summary = dict[str, float]


def time_interleaved(
    runs: Runs,
    *,
    seconds: float,
    wait: Callable[[Any], object] = lambda result: None,
    burst_ms: float = 20.0,
) -> dict[str, Summary]:
    """Times functions in interleaved rounds, in a random order in each round.

    In a round each function runs in a burst of several calls, as in real programs: the first call
    after another function finds the caches full of other data and the thread pool in another
    state. The order is random because with a fixed one a function would always follow the same
    other function.

    Args:
        runs: the functions by name; what they return goes to ``wait``.
        seconds: approximate time of all rounds together; there are at least five rounds.
        wait: called with the last result at the end of a burst, for functions that return before
            the device is done. Within a burst the device always has work, so its time is measured
            and not that of the dispatch.
        burst_ms: approximate minimum time of a burst.

    Returns:
        By name, milliseconds per call as :func:`summarize` returns them.
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
    return {name: summarize(values) for name, values in times.items()}


def shuffled_rounds(names: Sequence[str], deadline: float, least: int) -> Iterator[list[str]]:
    """Yields the names in a random order for each round.

    Args:
        names: what to shuffle.
        deadline: the `time.monotonic()` after which no round begins.
        least: minimum number of rounds, whatever the deadline.
    """
    order, shuffle = list(names), random.Random(0).shuffle
    rounds = 0
    while rounds < least or time.monotonic() < deadline:
        shuffle(order)
        yield list(order)
        rounds += 1


def summarize(values: list[float]) -> Summary:
    """Returns "median", the quartiles "low" and "high", "min", and "rounds", their number."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "min": min(values),
        "rounds": len(values),
    }
