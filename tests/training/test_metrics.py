"""The metrics file, and means over batches."""

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
def writer(tmp_path):
    writer = training.JsonlWriter(tmp_path / "some" / "metrics.jsonl")
    writer.resume_from(0)
    for row in ROWS:
        writer.write(row)
    return writer


def test_rows_are_read_back(writer):
    assert training.read_metrics(writer.path) == ROWS


def test_a_value_that_is_not_finite_is_null_in_valid_json(writer):
    writer.write({"step": 9, "loss": math.nan, "worst": math.inf})
    last = writer.path.read_text().splitlines()[-1]

    def fail(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(last, parse_constant=fail) == {"step": 9, "loss": None, "worst": None}


@pytest.mark.parametrize("step", [0, 3, 4, 7, 8, 100])
def test_resuming_removes_the_rows_after_the_step(writer, step):
    writer.resume_from(step)
    assert training.read_metrics(writer.path) == [row for row in ROWS if row["step"] <= step]


@pytest.mark.parametrize("cut", range(1, len(json.dumps(ROWS[-1])) + 1))
def test_a_last_line_cut_anywhere_is_removed_or_complete(writer, cut):
    whole = writer.path.read_bytes()
    writer.path.write_bytes(whole[:-cut])
    assert training.read_metrics(writer.path) == (ROWS if cut == 1 else ROWS[:-1])
    writer.resume_from(100)
    writer.write(ROWS[-1])
    assert training.read_metrics(writer.path) == ROWS[:-1] + ROWS[-1:] * (2 if cut == 1 else 1)


def test_a_line_that_is_not_a_row_is_named(writer):
    lines = writer.path.read_text().splitlines()
    writer.path.write_text("\n".join([lines[0], "oops", lines[1]]) + "\n")
    with pytest.raises(training.MetricsError, match=r"Line 2 of .*metrics.jsonl.*oops"):
        training.read_metrics(writer.path)


def test_memory_is_bounded_whatever_the_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = '{"step": 1, "loss": 0.5}'
    path.write_text("x" * (2 << 20) + "\n" + row + "\n")
    with pytest.raises(training.MetricsError, match=r"Line 1 .* is not a row"):
        training.read_metrics(path)
    path.write_text('{"step":1}\n' * 400_000)
    with pytest.raises(training.MetricsError, match=r"more memory than 3 times its size"):
        training.read_metrics(path)


def test_unwritable_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    writer = training.JsonlWriter(tmp_path / "file" / "metrics.jsonl")
    for attempt in (lambda: writer.resume_from(0), lambda: writer.write({"step": 1})):
        with pytest.raises(training.MetricsError, match=r"metrics\.jsonl cannot be written"):
            attempt()
    with pytest.raises(training.MetricsError, match=r"metrics\.jsonl cannot be read"):
        training.read_metrics(writer.path)


def test_mean_over_batches_weighs_each_by_its_size():
    values = [[1.0, 2.0, 6.0], [5.0], [0.0, 4.0]]

    def metric_fn(scale, batch):
        return {"scaled": scale * jnp.sum(batch), "square": jnp.sum(batch**2)}, batch.size

    metrics = training.mean_metrics(metric_fn, 2.0, map(jnp.array, values))
    assert metrics == pytest.approx({"scaled": 2 * 18 / 6, "square": 82 / 6})
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("batches", [[], [jnp.zeros(0)]])
def test_mean_over_no_examples_raises(batches):
    with pytest.raises(ValueError, match="batches"):
        training.mean_metrics(lambda params, batch: ({"a": jnp.sum(batch)}, batch.size), 0, batches)


@pytest.mark.parametrize("result", [0.5, ([1.0], 2), ({"a": 1.0},)])
def test_wrong_results_of_a_metric_function_are_named(result):
    with pytest.raises(TypeError, match=r"metric_fn must return \(sums, weight\)"):
        training.mean_metrics(lambda params, batch: result, 0, [1])
