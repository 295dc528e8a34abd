"""Tests of significance: which differences between cells exceed those between seeds."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from experiments.task import HIGHER_IS_BETTER, NEITHER_IS_BETTER

THRESHOLD = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A metric of two cells.

    Attributes:
        metric: name of the test metric.
        cells: names of the two cells.
        difference: mean over the seeds of the first cell's metric minus the second's.
        p: p value of a two-sided paired t-test over the seeds. It is 0 where each seed has the
            same difference, as of one cell that solves a task always and one that never does. None
            with a single seed, with different seeds, or where each seed has no difference.
        p_holm: `p` with Holm's correction over the pairs of cells.
    """

    metric: str
    cells: tuple[str, str]
    difference: float
    p: float | None
    p_holm: float | None


def compare_cells(models: Sequence[Mapping[str, Any]], metric: str) -> list[Comparison]:
    """Returns the comparison of each pair of cells.

    Seeds are paired because a seed gives all cells the same data in the same order.

    Args:
        models: the rows of `compare.json`, one for each cell.
        metric: name of a test metric.
    """
    pairs = list(itertools.combinations(models, 2))
    p_values = [_p_value(left, right, metric) for left, right in pairs]
    return [
        Comparison(
            metric,
            (left["cell"], right["cell"]),
            left["test"][metric]["mean"] - right["test"][metric]["mean"],
            p,
            p_holm,
        )
        for (left, right), p, p_holm in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def _p_value(left: Mapping[str, Any], right: Mapping[str, Any], metric: str) -> float | None:
    ours, theirs = left["test"][metric]["values"], right["test"][metric]["values"]
    if left["seeds"] != right["seeds"] or len(ours) < 2:
        return None
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if statistics.stdev(differences) == 0:  # scipy warns of it
        return 0.0 if differences[0] else None
    return float(stats.ttest_rel(ours, theirs).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p values with the correction of Holm 1979 for several tests; None stays None."""
    corrected: list[float | None] = [None] * len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[index] = largest
    return corrected


def significantly_best(models: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """Returns the cell that is better than each other with a corrected p below .05, or None."""
    if metric in NEITHER_IS_BETTER:
        return None
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    wins = dict.fromkeys((model["cell"] for model in models), 0)
    for comparison in compare_cells(models, metric):
        if comparison.p_holm is not None and comparison.p_holm < THRESHOLD:
            wins[comparison.cells[sign * comparison.difference < 0]] += 1
    best = max(wins, key=lambda cell: wins[cell])
    return best if len(models) > 1 and wins[best] == len(models) - 1 else None
