"""The benchmark for GPUs, as far as it goes where there is none."""

import functools
import json
import sys
from pathlib import Path

import jax
import pytest

from experiments.bench.baselines import Shape, make_problem
from experiments.bench.gpu import check, checks, cudnn_gru, jax_gru, report, torch_gru
from experiments.bench.gpu.roofline import floor_ms
from experiments.bench.timing import interleave
from experiments.errors import UserError

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


@pytest.mark.parametrize(
    "name", ["flax.nnx scan, TF32", "gru_jax portable, float32", "gru_jax portable, bfloat16"]
)
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
    assert "- out of time: other, float16" in text


def test_tables_are_those_of_the_figures():
    folder = Path(__file__).parents[2] / "benchmarks"
    for name, to_markdown in (("gpu", report.to_markdown), ("gpu-check", check.to_markdown)):
        result = json.loads((folder / f"{name}.json").read_text())
        assert (folder / f"{name}.md").read_text() == to_markdown(result)


def test_peers_that_are_not_there_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(cudnn_gru.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch_gru.importlib.util, "find_spec", lambda name: None)
    rows = cudnn_gru.time_cudnn([SHAPE], repeats=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"there is no C compiler"}
    rows = torch_gru.time_torch([SHAPE], seconds=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"torch is not installed"}
    assert {row["precision"] for row in rows} == set(torch_gru.PRECISIONS)


def test_a_package_with_half_of_cudas_headers_is_passed_over(tmp_path, monkeypatch):
    """cuda_runtime.h includes crt/host_config.h, which another package has."""
    half, whole, said = tmp_path / "half", tmp_path / "whole", tmp_path / "said"
    for folder, names in (
        (half, ("include/cuda_runtime.h", "include/cudnn.h", "lib/libcudnn.so")),
        (whole, ("include/cuda_runtime.h", "include/crt/host_config.h", "lib/libcudart.so")),
    ):
        for name in names:
            path = folder / "nvidia" / "some" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    compiler = tmp_path / "gcc"
    compiler.write_text(
        f'#!/bin/sh\necho "$@" > {said}\necho note: >&2\necho error: no >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(cudnn_gru.sysconfig, "get_path", lambda name: str(half))
    monkeypatch.setattr(cudnn_gru.sys, "path", [str(half), str(whole)])
    monkeypatch.setattr(cudnn_gru.shutil, "which", lambda name: str(compiler))
    rows = cudnn_gru.time_cudnn([SHAPE], repeats=1, timeout=10)
    assert {row["skipped"] for row in rows} == {f"{compiler} failed: error: no"}
    included = [word[2:] for word in said.read_text().split() if word.startswith("-I")]
    assert any((Path(folder) / "crt/host_config.h").exists() for folder in included)


def test_what_became_of_a_check():
    def fails():
        raise ValueError("it moved")

    def left_out():
        raise NotImplementedError("not here")

    assert check.outcome_of(lambda: {"values": 0.5}) == {
        "outcome": "passed",
        "found": {"values": 0.5},
    }
    assert check.outcome_of(fails) == {"outcome": "failed", "reason": "ValueError: it moved"}
    assert check.outcome_of(left_out) == {"outcome": "left out", "reason": "not here"}


def python(program):
    return [sys.executable, "-c", program]


SLEEPS = python("import time; time.sleep(600)")


@pytest.mark.parametrize(
    ("command", "seconds", "outcome", "reason"),
    [
        (SLEEPS, {"left": 600, "limit": 0.6}, "failed", "not done after 1 s"),
        (SLEEPS, {"left": 0.6, "limit": 600}, "left out", "not done after 1 s"),
        (["sleep", "600"], {"left": 600, "limit": 0.6}, "left out", "not done after 1 s"),
        (SLEEPS, {"left": 0}, "left out", "out of time"),
        (python("import os; os.abort()"), {"left": 600}, "failed", "ended with -6"),
        (python("raise SystemExit('no device')"), {"left": 600}, "failed", "no device"),
        (["false"], {"left": 600}, "failed", "ended with 1"),
        (["echo", "nothing was watched"], {"left": 600}, "failed", "nothing was watched"),
        ("not installed", {"left": 600}, "left out", "not installed"),
    ],
)
def test_a_check_that_does_not_come_to_its_end_is_reported(command, seconds, outcome, reason):
    row = check.in_a_process(command, **seconds)
    assert row["outcome"] == outcome
    assert reason in row["reason"]


def test_the_sanitizer_is_believed_where_it_sums_up():
    summary = "ERROR SUMMARY: 0 errors"
    row = check.in_a_process(["echo", f"========= {summary}"], 60)
    assert row == {"outcome": "passed", "found": {"summary": summary}}


def test_a_check_that_fails_is_reported_and_those_after_it_run(tmp_path, monkeypatch):
    def commands(*outcomes):
        rows = [{"outcome": outcome, "reason": "it moved"} for outcome in outcomes]
        return {
            f"number {index}": python(f"print({json.dumps(json.dumps(row))})")
            for index, row in enumerate(rows)
        }

    monkeypatch.setattr(check, "_commands", lambda setting: commands("failed", "left out"))
    with pytest.raises(UserError, match=r"nothing is timed.*check\.md"):
        check.require_right(tmp_path)
    rows = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert [row["outcome"] for row in rows] == ["failed", "left out"]
    assert "| number 0 | failed | it moved |" in (tmp_path / "check.md").read_text()
    monkeypatch.setattr(check, "_commands", lambda setting: commands("left out", "left out"))
    check.require_right(tmp_path)


@pytest.mark.slow
def test_every_check_is_a_process_of_its_own(tmp_path):
    setting = checks.Setting("xla", hidden_sizes=(8,), steps=5, repetitions=2)
    assert check.check(tmp_path, setting, limit=600)
    rows = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert {row["check"].split(",")[0] for row in rows if row["outcome"] == "passed"} == {
        one.__name__.replace("_", " ")
        for one in checks.CHECKS
        if one is not checks.beside_other_work
    }


def test_what_is_not_a_number_is_no_rounding():
    case = checks.Case.draw(2, 1, 8, plain=True)
    outcome = case.outcome("xla")
    checks.hold(outcome, outcome)
    poisoned = jax.tree.map(lambda leaf: leaf * float("nan"), outcome)
    with pytest.raises(ValueError, match="values are off by nan"):
        checks.hold(poisoned, outcome)
