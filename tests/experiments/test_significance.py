"""Tests of significance: scipy's and hand-worked p values, Holm's correction, and bold means."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.commands.compare import report
from experiments.commands.compare.significance import compare_cells, holm, significantly_best


def model(cell, values, metric="mse", seeds=None):
    return {
        "cell": cell,
        "model": f"{cell.upper()}, 4 units",
        "parameters": 100,
        "seeds": seeds or list(range(len(values))),
        "test": {metric: report.summarize(values)},
    }


def markdown(models, **more):
    result = {"name": "a", "command": "b", "models": models, "baselines": {}, **more}
    return report.to_markdown(result)


def test_the_p_value_is_that_of_a_paired_t_test():
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), so t is 2 sqrt(3) with 2 degrees.

    Student's distribution with 2 degrees of freedom has a closed form: P(|t| > x) =
    1 - x / sqrt(2 + x^2).
    """
    left, right = [4.0, 7.0, 5.0], [3.0, 5.0, 2.0]
    (comparison,) = compare_cells([model("gru", left), model("rnn", right)], "mse")
    assert comparison.cells == ("gru", "rnn")
    assert comparison.difference == pytest.approx(2)
    t = 2 * math.sqrt(3)
    assert comparison.p == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-12)
    assert comparison.p == comparison.p_holm == stats.ttest_rel(left, right).pvalue


def test_a_test_is_paired_by_seed():
    """Seeds differ by much more than cells, which an unpaired test would not see."""
    left = [1.0, 11.0, 21.0, 31.0]
    right = [1.9, 12.1, 22.0, 32.2]
    (comparison,) = compare_cells([model("gru", left), model("rnn", right)], "mse")
    assert comparison.p is not None
    assert comparison.p < 0.01 < 0.9 < stats.ttest_ind(left, right).pvalue


@pytest.mark.parametrize(
    ("left", "right", "seeds"),
    [
        ([1.0], [2.0], [0]),
        ([1.0, 2.0], [1.0, 2.0], [0, 1]),
        ([1.0, 2.0], [3.0, 5.0], [1, 2]),
    ],
    ids=["one seed", "equal values", "other seeds"],
)
def test_without_pairs_that_differ_there_is_no_p_value(left, right, seeds):
    models = [model("gru", left), model("rnn", right, seeds=seeds)]
    (comparison,) = compare_cells(models, "mse")
    assert (comparison.p, comparison.p_holm) == (None, None)
    assert significantly_best(models, "mse") is None
    text = markdown(models)
    assert "mse: GRU and RNN -." in text
    assert "**" not in text


def test_the_same_difference_for_each_seed_is_the_limit_of_a_small_spread():
    """One cell solves the task with each seed, the other with none."""
    exact, nearly = ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), ([1.0, 1.0, 1.0], [0.0, 0.0, 1e-6])
    p = [compare_cells([model("gru", a), model("rnn", b)], "mse")[0].p for a, b in (nearly, exact)]
    assert p[0] < 1e-11
    assert p[1] == 0
    models = [model(cell, values) for cell, values in zip(("gru", "rnn"), exact, strict=True)]
    assert significantly_best(models, "mse") == "rnn"
    assert "mse: GRU and RNN 0." in markdown(models)


def test_holm_equals_the_largest_corrected_p_value_of_smaller_ones():
    """Holm 1979: the adjusted p is max over p_j <= p of (m - rank_j) p_j, at most 1."""
    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 6):
        p_values = rng.uniform(0, 0.5, number).tolist()
        expected = [
            max(
                min(1.0, sum(other >= smaller for other in p_values) * smaller)
                for smaller in p_values
                if smaller <= p
            )
            for p in p_values
        ]
        assert holm(p_values) == pytest.approx(expected, rel=1e-12)


def test_holm_by_hand():
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("metric", "best"), [("mse", "gru"), ("accuracy", "lstm")])
def test_the_best_mean_is_bold_where_it_beats_every_other_cell(metric, best):
    models = [
        model("gru", [0.10, 0.11, 0.12, 0.10], metric),
        model("lstm", [0.91, 0.92, 0.90, 0.93], metric),
        model("rnn", [0.50, 0.52, 0.51, 0.49], metric),
    ]
    assert significantly_best(models, metric) == best
    text = markdown(models)
    assert text.count("**") == 2
    (row,) = [line for line in text.splitlines() if "**" in line]
    assert row.startswith(f"| {best.upper()}, 4 units")
    assert "Bold: better than every other cell, p < 0.05. p values of paired t-tests" in text
    p = compare_cells(models, metric)[0].p_holm
    assert f"{metric}: GRU and LSTM {p:.2g}, GRU and RNN" in text


def test_nothing_is_bold_of_a_metric_that_only_describes():
    """Short episodes are good in a maze, and bad with a pole to balance."""
    models = [model("gru", [10.0, 11.0, 12.0], "steps"), model("lstm", [90.0, 91.0, 93.0], "steps")]
    assert significantly_best(models, "steps") is None
    assert "**" not in markdown(models)


def test_nothing_is_bold_where_the_best_mean_beats_only_one_cell():
    models = [
        model("gru", [0.10, 0.11, 0.12, 0.10]),
        model("lstm", [0.13, 0.10, 0.11, 0.12]),
        model("rnn", [0.50, 0.52, 0.51, 0.49]),
    ]
    assert significantly_best(models, "mse") is None
    assert "**" not in markdown(models)


def test_a_single_cell_is_compared_with_nothing():
    text = markdown([model("gru", [0.1, 0.2])])
    assert "Bold" not in text
    assert "**" not in text


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (101, ""),
        (
            102,
            "Parameters that differ by more than 1.5 % from the budget, 102: GRU, 4 units -2.0 %.",
        ),
    ],
)
def test_a_model_outside_of_the_parameter_budget_is_named(budget, line):
    text = markdown([model("gru", [0.1, 0.2])], parameter_budget=budget)
    assert ("Parameters that differ" in text) == bool(line)
    assert line in text
