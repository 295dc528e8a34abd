"""The file of metrics, and means over batches."""

import json
import math

import jax.numpy as jnp
import pytest

from gru_jax import training

ROWS = [
    {"step": 4, "split": "train", "loss": 0.1 + 0.2},
    {"step": 7, "split": "validation", "loss": 1e-300},
    {"step": 8, "split": "train", "loss": 3.0},
]


@pytest.fixture
def log(tmp_path):
    log = training.MetricsLog(tmp_path / "some" / "metrics.jsonl")
    log.begin(0)
    for row in ROWS:
        log.append(row)
    return log


def test_rows_come_back(log):
    assert training.read_metrics(log.path) == ROWS


def test_what_is_not_finite_is_null_in_valid_json(log):
    log.append({"step": 9, "loss": math.nan, "worst": math.inf})
    last = log.path.read_text().splitlines()[-1]

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(last, parse_constant=refuse) == {"step": 9, "loss": None, "worst": None}


@pytest.mark.parametrize("step", [0, 3, 4, 7, 8, 100])
def test_beginning_drops_the_rows_after_the_step(log, step):
    log.begin(step)
    assert training.read_metrics(log.path) == [row for row in ROWS if row["step"] <= step]


@pytest.mark.parametrize("cut", range(1, len(json.dumps(ROWS[-1])) + 1))
def test_a_last_line_cut_anywhere_is_dropped_or_whole(log, cut):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-cut])
    assert training.read_metrics(log.path) == (ROWS if cut == 1 else ROWS[:-1])
    log.begin(100)
    log.append(ROWS[-1])
    assert training.read_metrics(log.path) == ROWS[:-1] + ROWS[-1:] * (2 if cut == 1 else 1)


def test_a_line_that_is_no_row_is_named(log):
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], "oops", lines[1]]) + "\n")
    with pytest.raises(training.MetricsError, match=r"Line 2 of .*metrics.jsonl.*oops"):
        training.read_metrics(log.path)


def test_unwritable_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    log = training.MetricsLog(tmp_path / "file" / "metrics.jsonl")
    for attempt in (lambda: log.begin(0), lambda: log.append({"step": 1})):
        with pytest.raises(training.MetricsError, match=r"metrics\.jsonl cannot be written"):
            attempt()
    with pytest.raises(training.MetricsError, match=r"metrics\.jsonl cannot be read"):
        training.read_metrics(log.path)


def test_mean_over_batches_weighs_each_by_its_size():
    values = [[1.0, 2.0, 6.0], [5.0], [0.0, 4.0]]

    def metric_fn(scale, batch):
        return {"scaled": scale * jnp.sum(batch), "square": jnp.sum(batch**2)}, batch.size

    figures = training.evaluate_mean(metric_fn, 2.0, map(jnp.array, values))
    assert figures == pytest.approx({"scaled": 2 * 18 / 6, "square": 82 / 6})
    assert all(type(value) is float for value in figures.values())


@pytest.mark.parametrize("batches", [[], [jnp.zeros(0)]])
def test_mean_over_nothing_is_refused(batches):
    with pytest.raises(ValueError, match="batches"):
        training.evaluate_mean(
            lambda params, batch: ({"a": jnp.sum(batch)}, batch.size), 0, batches
        )
