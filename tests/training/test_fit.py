"""The training loop: steps, evaluations, logged rows, checkpoints, and when it ends."""

import itertools
import math
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax import training
from tests.slow import slow
from tests.training import regression_problem as problem


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, problem.fit(directory)


def scripted(values):
    """An ``evaluate`` that returns the next of ``values`` at each call."""
    remaining = iter(values)
    return lambda params: {"loss": next(remaining)}


def test_fit_takes_the_steps_one_after_another(uninterrupted):
    state = problem.make_state()
    for step in range(problem.STEPS):
        state, _ = problem.make_train_step()(state, problem.batch_at(step))
    _, result = uninterrupted
    problem.assert_same(result.state, state)
    assert (result.status, result.signal) == ("finished", None)
    assert result.steps_per_second > 0


def test_two_runs_agree_bit_for_bit(uninterrupted, tmp_path):
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


def test_best_is_the_best_evaluation_with_and_without_checkpoints(uninterrupted):
    directory, result = uninterrupted
    rows = [row for row in problem.rows_without_times(directory) if row["split"] == "validation"]
    best = min(rows, key=lambda row: row["worst"])
    assert result.best_step == best["step"] < problem.STEPS
    assert result.best_metrics == {"loss": best["loss"], "worst": best["worst"]}
    assert problem.evaluate(result.best_params) == result.best_metrics
    problem.assert_same(problem.fit().best_params, result.best_params)


def test_latest_checkpoints_and_the_best_are_on_disk(uninterrupted):
    directory, result = uninterrupted
    assert problem.steps_on_disk(directory) == sorted({56, 60, result.best_step})


def test_rows_have_their_steps(uninterrupted):
    directory, _ = uninterrupted
    rows = training.read_metrics(directory / "metrics.jsonl")
    steps = {
        split: [row["step"] for row in rows if row["split"] == split]
        for split in ("train", "validation")
    }
    assert steps["train"] == list(range(4, 61, 4))
    assert steps["validation"] == [*range(7, 60, 7), 60]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert all(row["steps_per_second"] > 0 for row in rows if row["split"] == "train")


def test_training_rows_are_means_over_their_steps(uninterrupted):
    directory, _ = uninterrupted
    state, losses = problem.make_state(), []
    for step in range(problem.STEPS):
        state, metrics = problem.make_train_step()(state, problem.batch_at(step))
        losses.append(float(metrics["loss"]))
    rows = [row for row in problem.rows_without_times(directory) if row["split"] == "train"]
    for row, (first, last) in zip(rows, itertools.pairwise(range(0, 61, 4)), strict=True):
        assert row["loss"] == pytest.approx(np.mean(losses[first:last]), rel=1e-12)


def test_last_step_is_logged_and_evaluated_out_of_turn(tmp_path):
    result = problem.fit(tmp_path, steps=5)
    rows = problem.rows_without_times(tmp_path)
    assert [(row["step"], row["split"]) for row in rows] == [
        (4, "train"),
        (5, "train"),
        (5, "validation"),
    ]
    assert result.best_step == 5


@pytest.mark.parametrize("mode", ["min", "max"])
def test_patience_counts_evaluations_without_improvement(tmp_path, mode):
    sign = 1 if mode == "min" else -1
    values = [sign * value for value in (5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 3.1, 2.0)]
    result = problem.fit(tmp_path, evaluate=scripted(values), monitor="loss", mode=mode, patience=3)
    # A tie is no improvement: after the sixth evaluation the fourth is still the best.
    assert result.status == "early_stopped"
    assert int(result.state.step) == 7 * 7
    assert result.best_step == 4 * 7
    assert result.best_metrics == {"loss": sign * 3.0}
    again = problem.fit(tmp_path, evaluate=scripted([]), monitor="loss", mode=mode, patience=3)
    problem.assert_same(again.state, result.state)
    problem.assert_same(again.best_params, result.best_params)
    assert again.status == "early_stopped"


def test_a_value_that_is_not_finite_is_never_better(caplog):
    values = [math.nan, math.inf, 2.0, math.nan, -math.inf, 1.0, 3.0, 3.0, 3.0]
    result = problem.fit(evaluate=scripted(values), monitor="loss")
    assert result.best_step == 6 * 7
    assert "is nan at step 7." in caplog.records[0].getMessage()
    assert len(caplog.records) == 4


@pytest.mark.parametrize(
    ("value", "bad_index"),
    [
        slow(math.nan, 0),
        slow(math.inf, 7),
        (math.nan, 13),
        *(slow(math.nan, index) for index in (2, 7, 9, 30)),
        *(slow(math.inf, index) for index in (0, 2, 9, 13, 30)),
    ],
)
def test_not_finite_loss_names_step_batch_and_checkpoint(tmp_path, uninterrupted, bad_index, value):
    def batch_at(step):
        inputs, targets = problem.batch_at(step)
        if step == bad_index:
            targets = np.full_like(targets, value)
        return inputs, targets

    with pytest.raises(training.NonFiniteLossError) as caught:
        problem.fit(tmp_path, batch_at=batch_at)
    error, last_good = caught.value, bad_index // 7 * 7
    checkpoint = tmp_path / "checkpoints" / str(last_good) if last_good else None
    assert (error.step, error.batch_index) == (bad_index + 1, bad_index)
    assert error.last_checkpoint == checkpoint
    expected = ["loss", str(value), f"step {bad_index + 1}", f"index {bad_index}"]
    assert all(word in str(error) for word in [*expected, str(checkpoint or "no checkpoint")])

    row = problem.rows_without_times(tmp_path)[-1]
    assert (row["step"], row["split"], row["loss"]) == (bad_index + 1, "train", None)
    assert all(step <= last_good for step in problem.steps_on_disk(tmp_path))
    # With correct data the run resumes from there and gives the uninterrupted run's result.
    problem.assert_same(problem.fit(tmp_path).state, uninterrupted[1].state)


def test_not_finite_gradients_of_a_finite_loss_stop_the_run():
    def loss(params, batch, key):
        return jnp.sum(jnp.sqrt(params["a"])), {}

    optimizer = training.make_optimizer()
    with pytest.raises(training.NonFiniteLossError, match="grad_norm is inf at step 1"):
        problem.fit(
            state=training.TrainState.create({"a": jnp.zeros(2)}, optimizer),
            train_step=training.make_train_step(loss, optimizer),
        )


def raising_at(index, *numbers):
    def batch_at(step):
        if step == index:
            for number in numbers:
                signal.raise_signal(number)
        return problem.batch_at(step)

    return batch_at


@pytest.mark.parametrize(
    ("index", "number"),
    [
        (6, signal.SIGTERM),
        (7, signal.SIGINT),
        slow(6, signal.SIGINT),
        slow(7, signal.SIGTERM),
        *(slow(index, number) for index in (0, 12) for number in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_signal_saves_and_the_run_resumes_exactly(tmp_path, uninterrupted, number, index):
    handlers = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    result = problem.fit(tmp_path, batch_at=raising_at(index, number))
    assert (result.status, result.signal) == ("interrupted", number)
    assert int(result.state.step) == index + 1
    assert problem.steps_on_disk(tmp_path)[-1] == index + 1
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == handlers
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, resume="must"), *uninterrupted)


def test_a_program_that_handles_signals_itself(tmp_path, uninterrupted):
    """`stop` is asked between two steps, and no handler is installed."""
    handler, asked = signal.getsignal(signal.SIGINT), []

    def stop():
        assert signal.getsignal(signal.SIGINT) is handler
        asked.append(None)
        return signal.SIGTERM if len(asked) > 6 else None

    result = problem.fit(tmp_path, stop=stop)
    assert (result.status, result.signal) == ("interrupted", signal.SIGTERM)
    assert problem.steps_on_disk(tmp_path)[-1] == int(result.state.step) == 6
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, resume="must"), *uninterrupted)


def test_signal_in_the_last_step_lets_the_run_finish(tmp_path, uninterrupted):
    result = problem.fit(tmp_path, batch_at=raising_at(problem.STEPS - 1, signal.SIGTERM))
    assert result.signal is None
    problem.assert_same_run(tmp_path, result, *uninterrupted)


def test_interrupted_before_any_evaluation_there_is_no_best():
    result = problem.fit(batch_at=raising_at(2, signal.SIGTERM))
    assert (result.best_params, result.best_step, result.best_metrics) == (None, None, None)
    assert result.status == "interrupted"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_stops_at_once(tmp_path, uninterrupted, first):
    with pytest.raises(KeyboardInterrupt):
        problem.fit(tmp_path, batch_at=raising_at(17, first, signal.SIGINT))
    assert problem.steps_on_disk(tmp_path) == [7, 14]
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


def test_fit_works_off_the_main_thread(uninterrupted):
    results = []
    thread = threading.Thread(target=lambda: results.append(problem.fit()))
    thread.start()
    thread.join()
    problem.assert_same(results[0].state, uninterrupted[1].state)


def test_error_in_the_users_code_leaves_the_checkpoints_whole(tmp_path, uninterrupted):
    def batch_at(step):
        if step == 23:
            raise OSError("the data is gone")
        return problem.batch_at(step)

    with pytest.raises(OSError, match="the data is gone"):
        problem.fit(tmp_path, batch_at=batch_at)
    assert problem.steps_on_disk(tmp_path)[-1] == 21
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_bar_is_quiet_unless_asked_or_on_a_terminal(capfd, progress, shown):
    problem.fit(progress=progress)
    output, errors = capfd.readouterr()
    assert output == ""
    assert ("60/60" in errors and "step/s" in errors and "loss" in errors) is shown
    assert bool(errors) is shown


def test_bar_is_shown_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    problem.fit()
    assert "60/60" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, ValueError, ["steps", "0"]),
        ({"steps": 1.5}, TypeError, ["steps", "1.5"]),
        ({"eval_every": 0}, ValueError, ["eval_every"]),
        ({"log_every": -1}, ValueError, ["log_every"]),
        ({"patience": 0}, ValueError, ["patience"]),
        ({"mode": "least"}, ValueError, ["mode", "least", "min"]),
        ({"resume": "yes"}, ValueError, ["resume", "yes", "auto"]),
        ({"resume": "must"}, ValueError, ["resume", "checkpoints"]),
        ({"monitor": "accuracy"}, ValueError, ["monitor", "accuracy", "worst"]),
        ({"state": {"w": 1.0}}, TypeError, ["state", "TrainState", "dict"]),
        ({"batch_at": [1]}, TypeError, ["batch_at", "function", "list"]),
        ({"evaluate": None}, TypeError, ["evaluate", "function", "NoneType"]),
        ({"evaluate": lambda params: 0.5}, TypeError, ["evaluate", "dict", "float"]),
        ({"evaluate": lambda params: {"worst": "?"}}, TypeError, ["evaluate", "worst", "'?'"]),
        ({"evaluate": lambda params: {"worst": np.ones(3)}}, TypeError, ["worst", "(3,)"]),
        ({"checkpoints": "runs"}, TypeError, ["checkpoints", "CheckpointOptions", "str"]),
        ({"metrics": "rows.jsonl"}, TypeError, ["metrics", "JsonlWriter", "str"]),
        ({"profile": "trace"}, TypeError, ["profile", "ProfileOptions", "str"]),
    ],
)
def test_wrong_arguments_are_named(options, error, words):
    with pytest.raises(error) as caught:
        problem.fit(**options)
    assert all(word in str(caught.value) for word in words)


def test_state_handed_in_is_where_the_run_begins(uninterrupted):
    half = problem.fit(steps=30).state
    assert int(half.step) == 30
    problem.assert_same(problem.fit(state=half).state, uninterrupted[1].state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(half))


@pytest.mark.parametrize("name", ["step", "split", "seconds", "steps_per_second"])
def test_metrics_named_like_a_column_of_the_rows_raise(name):
    with pytest.raises(ValueError, match=name):
        problem.fit(evaluate=lambda params: {"worst": 1.0, name: 2.0})
