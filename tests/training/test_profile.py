"""The trace of some train steps: which steps are in it, and that training is the same with it."""

import gzip
import json

import jax
import pytest

from gru_jax import training
from gru_jax.training import profile as profile_module
from tests.training import regression_problem as problem


def options(directory, first=10, last=12):
    return training.ProfileOptions(directory / "profile", first, last)


def traced_steps(directory):
    """The steps in the traces below a directory, trace by trace."""
    traces = sorted(directory.glob("profile/plugins/profile/*/*.trace.json.gz"))
    return [
        sorted(
            int(event["args"]["step_num"])
            for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
            if event.get("name") == "train" and "step_num" in event.get("args", {})
        )
        for trace in traces
    ]


@pytest.fixture
def recorded(monkeypatch):
    """Records when a trace begins and ends, in place of tracing, which takes seconds."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def fit_recorded(directory, calls, **settings):
    def batch_at(index):
        calls.append(index + 1)
        return problem.batch_at(index)

    return problem.fit(directory, batch_at=batch_at, **settings)


def test_a_trace_is_written_and_training_is_the_same(tmp_path):
    plain, traced = tmp_path / "plain", tmp_path / "traced"
    expected = problem.fit(plain, steps=20)
    result = problem.fit(traced, steps=20, profile=options(traced))
    problem.assert_same_run(traced, result, plain, expected)
    assert list(traced.glob("profile/plugins/profile/*/*.xplane.pb"))
    assert traced_steps(traced) == [[10, 11, 12]]


def test_a_trace_begins_and_ends_at_its_steps(tmp_path, recorded):
    fit_recorded(tmp_path, recorded, steps=14, profile=options(tmp_path))
    assert recorded == [*range(1, 10), "start", 10, 11, 12, "stop", 13, 14]


@pytest.mark.parametrize(
    ("interrupted_before", "expected"),
    [
        (9, [8, 9, "start", 10, 11, 12, "stop", 13, 14]),
        (12, [8, 9, "start", 10, 11, 12, "stop", 13, 14]),
    ],
)
def test_a_resumed_run_traces_the_same_steps(tmp_path, recorded, interrupted_before, expected):
    """The last checkpoint is that of step 7."""

    def fail(index):
        if index + 1 == interrupted_before:
            raise RuntimeError("interrupted")
        return problem.batch_at(index)

    settings = {"steps": 14, "profile": options(tmp_path)}
    with pytest.raises(RuntimeError, match="interrupted"):
        problem.fit(tmp_path, batch_at=fail, **settings)
    assert recorded == (["start", "stop"] if interrupted_before > 10 else [])
    recorded.clear()
    fit_recorded(tmp_path, recorded, **settings)
    assert recorded == expected


def test_a_run_that_resumes_within_the_steps_traces_the_rest(tmp_path, recorded):
    problem.fit(tmp_path, steps=7)
    fit_recorded(tmp_path, recorded, steps=12, profile=options(tmp_path, 5, 9))
    assert recorded == ["start", 8, 9, "stop", 10, 11, 12]


def test_a_run_past_the_steps_traces_nothing(tmp_path, recorded):
    problem.fit(tmp_path, steps=7)
    fit_recorded(tmp_path, recorded, steps=9, profile=options(tmp_path, 2, 7))
    assert recorded == [8, 9]


def test_the_device_has_finished_when_a_trace_begins_and_ends(tmp_path, recorded, monkeypatch):
    waited = []
    block_until_ready = jax.block_until_ready

    def wait(tree):
        waited.append(tree)
        return block_until_ready(tree)

    for name in ("start_trace", "stop_trace"):
        record = getattr(jax.profiler, name)

        def check(*path, record=record):
            assert isinstance(waited[-1], training.TrainState)
            assert int(waited[-1].step) in (9, 12)
            record(*path)

        monkeypatch.setattr(jax.profiler, name, check)
    monkeypatch.setattr(profile_module.jax, "block_until_ready", wait)
    problem.fit(tmp_path, steps=14, profile=options(tmp_path))
    assert recorded == ["start", "stop"]


@pytest.mark.parametrize(
    ("steps", "error"), [((0, 3), ValueError), ((4, 3), ValueError), ((1.5, 3), TypeError)]
)
def test_wrong_steps_are_named(tmp_path, steps, error):
    with pytest.raises(error, match="first_step"):
        training.ProfileOptions(tmp_path, *steps)
