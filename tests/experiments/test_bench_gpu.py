"""The benchmark for GPUs, as far as it can be tested without one."""

import functools
import json
import sys
from pathlib import Path

import jax
import pytest

from experiments.bench.baselines import make_problem
from experiments.bench.gpu import (
    cases,
    check,
    checks,
    cudnn_gru,
    everything,
    jax_gru,
    report,
    torch_gru,
)
from experiments.bench.gpu.roofline import floor_ms
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import time_interleaved
from experiments.errors import UserError
from tests.slow import slow

SIZE = ProblemSize(batch=2, time=5, input=3, hidden=4)
H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["bench --gpu needs a GPU", "cpu here"]),
        (["--all"], ["bench --gpu needs a GPU", "cpu here"]),
        (["--sizes", "1,2,3"], ["--sizes", "1,2,3", "batch,time,input,hidden"]),
        (["--seconds", "0"], ["--seconds", "0"]),
        (["--minutes", "-1"], ["--minutes", "-1"]),
    ],
)
def test_user_errors_are_one_message(options, expected, user_error):
    message = user_error("bench", "--gpu", *options)
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    "name",
    ["flax.nnx scan, TF32", slow("gru_jax xla, float32"), slow("gru_jax xla, bfloat16")],
)
def test_variants_compute_the_same_function(name):
    problem = make_problem(SIZE)
    variant = jax_gru.variants(problem)[name]
    runs, errors = jax_gru.compile_and_check(variant, problem, jax_gru.reference(problem))
    assert set(runs) == set(errors) == {"forward", "gradient"}
    assert runs["forward"]().dtype == variant.dtype


def test_a_variant_that_computes_another_function_is_rejected():
    problem = make_problem(SIZE)
    variant = jax_gru.Variant("bfloat16", lambda params, xs: jax.numpy.zeros((5, 2, 4), xs.dtype))
    with pytest.raises(ValueError, match="its forward is off by 1"):
        jax_gru.compile_and_check(variant, problem, jax_gru.reference(problem))


def test_a_burst_waits_once_for_many_calls():
    called, waited = [], []
    times = time_interleaved(
        {"a": lambda: called.append(1)}, wait=waited.append, seconds=0, burst_ms=0.1
    )
    assert len(called) > len(waited) == times["a"]["rounds"] + 2
    assert 0 < times["a"]["min"] <= times["a"]["median"]


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    wide, narrow = ProblemSize(512, 100, 2048, 2048), ProblemSize(1, 100, 2048, 2048)
    floor = functools.partial(floor_ms, precision="bfloat16", device_kind=H100)
    flops = 2 * 512 * 100 * 3 * 2048 * 4096
    assert floor(wide, gradient=False) == pytest.approx(flops / 989.4e12 * 1e3)
    assert floor(wide, gradient=True) == pytest.approx(3 * floor(wide, gradient=False))
    moved = 2 * (100 * 4096 + 3 * 2048 * 4096)
    assert floor(narrow, gradient=False) == pytest.approx(moved / 3.35e12 * 1e3)
    assert floor_ms(wide, "bfloat16", "another", gradient=False) is None


def test_the_report_names_precisions_and_what_was_skipped():
    row = {"implementation": "slow", "precision": "float16", "size": str(SIZE)}
    rows = [
        {**row, "forward": {"median": 2.0}, "gradient": {"median": 9.0}},
        {**row, "implementation": "fast", "forward": {"median": 1.0}},
        {**row, "implementation": "other", "skipped": "out of time"},
    ]
    result = {
        "device": {"kind": H100},
        "versions": {"jax": "0"},
        "git_revision": "0" * 40,
        "command": "bench",
        "sizes": [str(SIZE)],
        "rows": rows,
    }
    text = report.to_markdown(result)
    forward, gradient = text.split("Forward and gradient at")
    assert forward.index("| fast | float16 | 1 | 200.00 |") < forward.index("| slow | float16 |")
    assert "| slow | float16 | 9 | 1800.00 |" in gradient
    assert "- out of time: other, float16" in text


def test_tables_are_those_of_the_results():
    folder = Path(__file__).parents[2] / "benchmarks"
    for name, to_markdown in (("gpu", report.to_markdown), ("gpu-check", check.to_markdown)):
        result = json.loads((folder / f"{name}.json").read_text())
        assert (folder / f"{name}.md").read_text() == to_markdown(result)


def test_missing_baselines_are_skipped_with_the_reason(monkeypatch, assume_packages):
    monkeypatch.setattr(cudnn_gru.shutil, "which", lambda name: None)
    assume_packages("torch", installed=False)
    rows = cudnn_gru.time_cudnn([SIZE], repeats=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"there is no C compiler"}
    rows = torch_gru.time_torch([SIZE], seconds=1, timeout=10)
    assert {row["skipped"] for row in rows} == {"torch is not installed"}
    assert {row["precision"] for row in rows} == set(torch_gru.PRECISIONS)


def test_a_package_with_half_of_cudas_headers_is_ignored(tmp_path, monkeypatch):
    """cuda_runtime.h includes crt/host_config.h, which another package contains."""
    half, whole, log = tmp_path / "half", tmp_path / "whole", tmp_path / "log"
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
        f'#!/bin/sh\necho "$@" > {log}\necho note: >&2\necho error: no >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(cudnn_gru.sysconfig, "get_path", lambda name: str(half))
    monkeypatch.setattr(cudnn_gru.sys, "path", [str(half), str(whole)])
    monkeypatch.setattr(cudnn_gru.shutil, "which", lambda name: str(compiler))
    rows = cudnn_gru.time_cudnn([SIZE], repeats=1, timeout=10)
    assert {row["skipped"] for row in rows} == {f"{compiler} failed: error: no"}
    included = [word[2:] for word in log.read_text().split() if word.startswith("-I")]
    assert any((Path(folder) / "crt/host_config.h").exists() for folder in included)


def test_a_check_passes_fails_or_is_skipped():
    def fails():
        raise ValueError("results differ")

    def skipped():
        raise NotImplementedError("not here")

    assert check.run_check(lambda: {"values": 0.5}) == {
        "outcome": "passed",
        "found": {"values": 0.5},
    }
    assert check.run_check(fails) == {"outcome": "failed", "reason": "ValueError: results differ"}
    assert check.run_check(skipped) == {"outcome": "skipped", "reason": "not here"}


def python(program):
    return [sys.executable, "-c", program]


SLEEPS = python("import time; time.sleep(600)")


@pytest.mark.parametrize(
    ("command", "seconds", "outcome", "reason"),
    [
        (SLEEPS, {"left": 600, "limit": 0.6}, "failed", "not done after 1 s"),
        (SLEEPS, {"left": 0.6, "limit": 600}, "skipped", "not done after 1 s"),
        (["sleep", "600"], {"left": 600, "limit": 0.6}, "skipped", "not done after 1 s"),
        (SLEEPS, {"left": 0}, "skipped", "out of time"),
        (python("import os; os.abort()"), {"left": 600}, "failed", "exit code -6"),
        (python("raise SystemExit('no device')"), {"left": 600}, "failed", "no device"),
        (["false"], {"left": 600}, "failed", "exit code 1"),
        (["echo", "no summary"], {"left": 600}, "failed", "no summary"),
        ("not installed", {"left": 600}, "skipped", "not installed"),
    ],
)
def test_a_check_that_does_not_finish_is_reported(command, seconds, outcome, reason):
    row = check.run_subprocess(command, **seconds)
    assert row["outcome"] == outcome
    assert reason in row["reason"]


def test_the_sanitizer_passes_by_its_summary():
    summary = "ERROR SUMMARY: 0 errors"
    row = check.run_subprocess(["echo", f"========= {summary}"], 60)
    assert row == {"outcome": "passed", "found": {"summary": summary}}


def test_after_a_failed_check_the_others_run(tmp_path, monkeypatch):
    def commands(*outcomes):
        rows = [{"outcome": outcome, "reason": "results differ"} for outcome in outcomes]
        return {
            f"number {index}": python(f"print({json.dumps(json.dumps(row))})")
            for index, row in enumerate(rows)
        }

    monkeypatch.setattr(check, "_commands", lambda config: commands("failed", "skipped"))
    with pytest.raises(UserError, match=r"nothing is timed.*check\.md"):
        check.require_checks_pass(tmp_path)
    rows = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert [row["outcome"] for row in rows] == ["failed", "skipped"]
    assert "| number 0 | failed | results differ |" in (tmp_path / "check.md").read_text()
    monkeypatch.setattr(check, "_commands", lambda config: commands("skipped", "skipped"))
    check.require_checks_pass(tmp_path)


def test_everything_runs_in_the_order_of_importance_and_in_time(tmp_path, monkeypatch):
    """A failed check ends nothing; each part gets the seconds that those before it left."""
    clock, parts = [0.0], []

    def take(name, limit):
        parts.append(name)
        clock[0] += limit

    def failing_check(folder, config, limit):
        take(folder.name, limit)
        return folder.name != "one-block-float32"

    monkeypatch.setattr(everything.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(everything, "check", failing_check)
    monkeypatch.setattr(everything, "run", lambda *arguments: take("times", arguments[2]))
    monkeypatch.setattr(
        everything, "time_trainings", lambda *arguments: take("training", arguments[1])
    )
    assert not everything.run_everything(tmp_path, "command")
    later = [*everything.SANITIZER, "training", *everything.HOPPER]
    assert parts == [*everything.CHECKS, "times", *later]
    assert clock[0] == pytest.approx(everything.LIMIT)
    assert everything.LIMIT < 480


@pytest.mark.slow
def test_every_check_runs_in_its_own_process(tmp_path):
    config = checks.CheckConfig("xla", (8,), steps=5, repetitions=2, dtype="float32", problems=1)
    assert check.check(tmp_path, config, limit=600)
    rows = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert {row["check"].split(",")[0] for row in rows if row["outcome"] == "passed"} == {
        one.__name__.replace("_", " ")
        for one in checks.CHECKS
        if one is not checks.is_deterministic_under_load
    }


def test_nan_is_not_close():
    case = cases.Case.sample(2, 1, 8, plain=True)
    outcome = case.outcome("xla")
    tolerances = checks.CheckConfig().tolerances
    cases.assert_close(outcome, outcome, tolerances)
    with_nan = jax.tree.map(lambda leaf: leaf * float("nan"), outcome)
    with pytest.raises(ValueError, match="values are off by nan"):
        cases.assert_close(with_nan, outcome, tolerances)
