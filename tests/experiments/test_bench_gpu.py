"""The benchmark for GPUs, as far as it goes where there is none."""

import functools
import json

import jax
import pytest

from experiments.bench.gpu import check, checks, cudnn_gru, jax_gru, report, torch_gru
from experiments.bench.gpu.roofline import floor_ms
from experiments.bench.peers import Shape, make_problem
from experiments.bench.timing import interleave

SHAPE = Shape(batch=2, time=5, input=3, hidden=4)
H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["bench --gpu needs a GPU", "cpu here"]),
        (["--shapes", "1,2,3"], ["--shapes", "1,2,3", "batch,time,input,hidden"]),
        (["--seconds", "0"], ["--seconds", "0"]),
        (["--minutes", "-1"], ["--minutes", "-1"]),
    ],
)
def test_what_it_cannot_do_is_said_in_one_message(options, expected, refused):
    message = refused("bench", "--gpu", *options)
    for part in expected:
        assert part in message


@pytest.mark.parametrize("name", ["flax.nnx scan, TF32", "gru_jax portable, bfloat16"])
def test_ways_of_jax_compute_the_same(name):
    problem = make_problem(SHAPE)
    way = jax_gru.ways(problem)[name]
    runs, errors = jax_gru.compiled(way, problem, jax_gru.exact(problem))
    assert set(runs) == set(errors) == {"forward", "gradient"}
    assert runs["forward"]().dtype == way.dtype


def test_a_way_that_computes_something_else_is_refused():
    problem = make_problem(SHAPE)
    way = jax_gru.Way("bfloat16", lambda params, xs: jax.numpy.zeros((5, 2, 4), xs.dtype))
    with pytest.raises(ValueError, match="its forward is off by 1"):
        jax_gru.compiled(way, problem, jax_gru.exact(problem))


def test_bursts_wait_once_for_many_calls():
    called, waited = [], []
    times = interleave({"a": lambda: called.append(1)}, wait=waited.append, seconds=0, burst_ms=0.1)
    assert len(called) > len(waited) == times["a"]["rounds"] + 2
    assert 0 < times["a"]["min"] <= times["a"]["median"]


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    wide, narrow = Shape(512, 100, 2048, 2048), Shape(1, 100, 2048, 2048)
    floor = functools.partial(floor_ms, precision="bfloat16", device_kind=H100)
    operations = 2 * 512 * 100 * 3 * 2048 * 4096
    assert floor(wide, gradient=False) == pytest.approx(operations / 989.4e12 * 1e3)
    assert floor(wide, gradient=True) == pytest.approx(3 * floor(wide, gradient=False))
    moved = 2 * (100 * 4096 + 3 * 2048 * 4096)
    assert floor(narrow, gradient=False) == pytest.approx(moved / 3.35e12 * 1e3)
    assert floor_ms(wide, "bfloat16", "another", gradient=False) is None


def test_the_report_names_precision_and_what_was_left_out():
    row = {"contender": "slow", "precision": "float16", "shape": str(SHAPE)}
    rows = [
        {**row, "forward": {"median": 2.0}, "gradient": {"median": 9.0}},
        {**row, "contender": "fast", "forward": {"median": 1.0}},
        {**row, "contender": "other", "skipped": "out of time"},
    ]
    result = {
        "device": {"kind": H100},
        "versions": {"jax": "0"},
        "git_revision": "0" * 40,
        "command": "bench",
        "shapes": [str(SHAPE)],
        "rows": rows,
    }
    text = report.to_markdown(result)
    forward, gradient = text.split("Forward and gradient at")
    assert forward.index("| fast | float16 | 1 | 200.00 |") < forward.index("| slow | float16 |")
    assert "| slow | float16 | 9 | 1800.00 |" in gradient
    assert "- other, float16: out of time" in text


def test_peers_that_are_not_there_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(cudnn_gru.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch_gru.importlib.util, "find_spec", lambda name: None)
    rows = cudnn_gru.time_cudnn([SHAPE], repeats=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"there is no C compiler"}
    rows = torch_gru.time_torch([SHAPE], seconds=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"torch is not installed"}
    assert {row["precision"] for row in rows} == set(torch_gru.PRECISIONS)


def test_a_check_that_fails_is_reported_and_those_after_it_run(tmp_path, monkeypatch):
    def passes(setting, hidden):
        return {"values": 0.5}

    def fails(setting, hidden):
        raise ValueError("it moved")

    def left_out(setting, hidden):
        raise NotImplementedError("not here")

    setting = checks.Setting("xla", hidden_sizes=(8,))
    monkeypatch.setattr(check, "CHECKS", (fails, passes, left_out))
    assert not check.check(tmp_path, setting)
    rows = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert [row["outcome"] for row in rows[:3]] == ["failed", "passed", "left out"]
    assert (
        "| fails, hidden size 8 | failed | ValueError: it moved |"
        in (tmp_path / "check.md").read_text()
    )
    monkeypatch.setattr(check, "CHECKS", (passes, left_out))
    assert check.check(tmp_path, setting)


@pytest.mark.slow
@pytest.mark.parametrize(
    "one",
    [checks.same_bits, checks.under_shard_map, checks.with_donation],
    ids=lambda f: f.__name__,
)
def test_checks_run(one):
    assert one(checks.Setting("xla", steps=5, repetitions=2), 8)


def test_what_is_not_a_number_is_no_rounding():
    case = checks.Case.draw(2, 1, 8, plain=True)
    outcome = case.outcome("xla")
    checks.hold(outcome, outcome)
    poisoned = jax.tree.map(lambda leaf: leaf * float("nan"), outcome)
    with pytest.raises(ValueError, match="values are off by nan"):
        checks.hold(poisoned, outcome)
