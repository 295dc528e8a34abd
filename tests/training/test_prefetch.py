"""Batches read ahead in threads change nothing but the time."""

import signal
import threading
import time

import jax
import pytest

from tests.training import parallel_problem
from tests.training import regression_problem as problem


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, problem.fit(directory)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_the_run_is_the_same(tmp_path, uninterrupted, prefetch):
    def batch_at(step):
        # Later batches are ready before earlier ones.
        time.sleep(0.002 * (step % 3))
        return problem.batch_at(step)

    result = problem.fit(tmp_path, batch_at=batch_at, prefetch=prefetch)
    problem.assert_same_run(tmp_path, result, *uninterrupted)


def test_batches_are_read_ahead_once_and_none_after_the_last_step():
    read, ahead = [], threading.Event()

    def batch_at(step):
        read.append(step)
        if step == 2:
            ahead.set()
        elif step == 0:
            # The third batch is read before the first one is there.
            assert ahead.wait(timeout=60)
        return problem.batch_at(step)

    problem.fit(batch_at=batch_at, prefetch=2, steps=9)
    assert sorted(read) == list(range(9))


def test_an_error_is_raised_at_the_step_of_its_batch(tmp_path, uninterrupted):
    def batch_at(step):
        if step == 30:
            raise RuntimeError("no batch 30")
        return problem.batch_at(step)

    with pytest.raises(RuntimeError, match="no batch 30"):
        problem.fit(tmp_path, batch_at=batch_at, prefetch=4)
    assert problem.steps_on_disk(tmp_path)[-1] == 28
    problem.assert_same_run(tmp_path, problem.fit(tmp_path, prefetch=4), *uninterrupted)


def test_a_signal_ends_the_run_and_drops_what_was_read_ahead(tmp_path, uninterrupted):
    answers = iter([None] * 16 + [signal.SIGTERM] * 2)
    result = problem.fit(tmp_path, prefetch=4, stop=answers.__next__)
    assert (result.status, int(result.state.step)) == ("interrupted", 16)
    problem.assert_same_run(tmp_path, problem.fit(tmp_path), *uninterrupted)


def test_a_mesh(tmp_path):
    mesh = parallel_problem.make_mesh(jax.devices())
    one, two = tmp_path / "one", tmp_path / "two"
    parallel_problem.fit(one, mesh)
    parallel_problem.fit(two, mesh, prefetch=2)
    assert problem.rows_without_times(two) == problem.rows_without_times(one)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError)])
def test_what_is_no_number_of_batches(value, error):
    with pytest.raises(error, match=f"prefetch must be .*, got {value}"):
        problem.fit(steps=1, prefetch=value)
