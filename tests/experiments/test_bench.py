"""The benchmark: its implementations compute the same function, its reports what it measured."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import gru_jax
from experiments.bench import implementations, report, rl
from experiments.bench.baselines import (
    as_reset_before,
    from_jax,
    installed_baselines,
    make_problem,
    own_implementation,
)
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import time_interleaved
from experiments.cli import main
from experiments.errors import UserError
from experiments.runs import provenance

ROOT = Path(__file__).parents[2]
SIZE = ProblemSize(batch=2, time=5, input=3, hidden=4)


@pytest.mark.parametrize("name", sorted(installed_baselines()))
def test_installed_baselines_compute_our_function(name):
    # Other libraries rely on implicit promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert list(implementations.make_implementations([name], make_problem(SIZE))) == [name]


@pytest.mark.parametrize("options", implementations.OURS.values(), ids=implementations.OURS)
def test_our_options_compute_the_same_function(options):
    problem = make_problem(SIZE)
    actual = own_implementation(problem, **options)
    expected = own_implementation(problem, implementation="scan")
    np.testing.assert_allclose(actual.outputs(), expected.outputs(), atol=1e-6)
    np.testing.assert_allclose(actual.input_gradient(), expected.input_gradient(), atol=1e-5)


def test_a_baseline_with_two_gates_swapped_is_rejected(monkeypatch):
    problem = make_problem(SIZE)

    def swapped(problem):
        r, z, n = np.split(problem.params.w_x, 3, axis=-1)
        wrong = dataclasses.replace(problem.params, w_x=np.concatenate([z, r, n], axis=-1))
        return dataclasses.replace(
            own_implementation(dataclasses.replace(problem, params=wrong)), params=problem.params
        )

    monkeypatch.setitem(implementations.BASELINES, "swapped", ("jax", swapped))
    with pytest.raises(UserError, match=r"outputs of swapped differ from ours"):
        implementations.make_implementations(["swapped"], problem)


def test_a_baseline_with_another_derivative_is_rejected(monkeypatch):
    def stopped(problem):
        def apply(params, xs):
            return gru_jax.unroll(params, jax.lax.stop_gradient(xs))[1]

        return from_jax(problem, apply, problem.params)

    monkeypatch.setitem(implementations.BASELINES, "stopped", ("jax", stopped))
    with pytest.raises(UserError, match=r"gradients of stopped differ from ours"):
        implementations.make_implementations(["stopped"], make_problem(SIZE))


def test_reset_before_has_no_b_hn():
    params = as_reset_before(make_problem(SIZE).params)
    params.validate()
    assert (params.reset, params.b_hn) == ("before", None)


def test_rounds_are_interleaved_in_random_orders():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = time_interleaved(runs, seconds=0, burst_ms=0)
    # Each is called twice before the first round.
    assert order[:6] == [*"aabbcc"]
    rounds = ["".join(order[at : at + 3]) for at in range(6, len(order), 3)]
    assert len(rounds) == 5
    assert {"".join(sorted(names)) for names in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert {summary["rounds"] for summary in times.values()} == {5}
    assert all(summary["min"] <= summary["median"] <= summary["high"] for summary in times.values())


def test_ratios_are_of_medians_and_of_the_best_baseline():
    medians = {"gru_jax": 2.0, "gru_jax, scan": 1.0, "matmul only": 1.5, "a": 5.0, "b": 4.0}
    times = {name: {"median": value} for name, value in medians.items()}
    result = {"gradient": {"1,2,3,4": times}}
    assert report.best_baseline(times) == ("b", 4.0)
    assert report.ratios(result, "gradient") == {
        "1,2,3,4": {"best baseline": 2.0, "matmul only": 0.75}
    }


@pytest.mark.usefixtures("rendered")
def test_the_plot_shows_all_implementations(tmp_path):
    result = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())
    assert set(result["implementations"]) >= set(implementations.OURS)
    report.plot(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_writes_results_table_and_plots(workplace, capsys):
    sizes, names = str(SIZE), ("gru_jax", "matmul only", "linen")
    options = ["--seconds", "0.1", "--music", "False", "--output", "out"]
    options += ["--sizes", sizes, "--long", sizes, "--layers", sizes, "--cells", sizes]
    assert main(["bench", *options, "--implementations", *names]) == 0

    result = json.loads(Path("out", "bench.json").read_text())
    assert list(result["implementations"]) == list(names)
    assert list(result["gradient"][sizes]) == list(result["forward"][sizes]) == list(names)
    assert all(row["median"] > 0 for row in result["gradient"][sizes].values())
    assert result["process"][sizes]["linen"]["first_ms"] > 0
    assert all(row["gflops"] > 0 for row in result["matmuls"][sizes].values())
    assert set(result["long"][sizes]) == {"gru_jax"}
    layers = ["1 layer", "1 bidirectional layer", "2 layers", "2 bidirectional layers"]
    assert [*result["layers"][sizes]] == layers
    for rows in result["cells"][sizes].values():
        assert [*rows] == ["GRU", "LSTM", "RNN"]
    wide, equal = result["cells"][sizes].values()
    assert wide["GRU"]["parameters"] < wide["LSTM"]["parameters"]
    assert equal["LSTM"]["units"] <= equal["GRU"]["units"] <= equal["RNN"]["units"]
    assert set(result["streaming"]) == {"batch 1, 64 to 128", "batch 32, 64 to 128"}
    assert result["command"].startswith("python -m experiments bench --seconds 0.1")
    for plot in ("bench.png", "cells.png"):
        assert Path("out", plot).read_bytes().startswith(b"\x89PNG")
    table = Path("out", "bench.md").read_text()
    assert table == report.to_markdown(result)
    assert table.strip() in capsys.readouterr().out


def test_missing_data_are_named_before_anything_is_timed(user_error, monkeypatch):
    monkeypatch.setattr(
        implementations, "make_implementations", lambda *_: pytest.fail("something was timed")
    )
    assert "JSB_Chorales.mat" in user_error("bench", "--data-dir", "nowhere")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sizes", "1,2,3"], ["--sizes", "1,2,3", "batch,time,input,hidden"]),
        (["--sizes", "1,2,3,0"], ["--sizes", "1,2,3,0"]),
        (["--sizes", "a,2,3,4"], ["--sizes", "a,2,3,4"]),
        (["--long", "1,2,3"], ["--long", "1,2,3"]),
        (["--layers", "1,2"], ["--layers", "1,2"]),
        (["--implementations", "linnen"], ["linnen", "Did you mean linen?", "bench"]),
        (["--seconds", "0"], ["--seconds", "0"]),
    ],
)
def test_wrong_options_are_named(options, expected, user_error):
    message = user_error("bench", *options)
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            "processor\t: 0\nmodel name\t: A: B\nflags\t\t: avx avx2\npower management:\n",
            "A: B, AVX2",
        ),
        ("model name\t: C\nflags\t\t: avx avx2 avx512f\n", "C, AVX-512"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "NEON"),
        ("model name\t: D\n", "D"),
        ("", None),
    ],
)
def test_the_processor_is_named_with_its_vector_instructions(tmp_path, cpuinfo, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert provenance.cpu(path) == expected
    path.unlink()
    assert provenance.cpu(path) is None


def test_the_processor_is_in_the_headline():
    result = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())
    result["device"]["cpu"] = "A, AVX2"
    assert report.headline(result).startswith("On 2 CPU cores (A, AVX2), jax ")


@pytest.mark.parametrize("name", ["cpu", "sizes", "avx2", "jax-0.12", "jax-0.12-sizes"])
def test_tables_are_those_of_the_results(name):
    result = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    assert (ROOT / "benchmarks" / f"{name}.md").read_text() == report.to_markdown(result)


@pytest.mark.slow
def test_gradients_over_rollouts_are_timed_for_agents_that_compute_the_same(monkeypatch, workplace):
    small = ProblemSize(batch=3, time=4, input=5, hidden=6)
    monkeypatch.setattr(rl, "CASES", ((1, small), (2, small)))
    assert main(["bench", "--rl", "--seconds", "0.01", "--output", "out"]) == 0
    result = json.loads(Path("out", "rl.json").read_text())
    assert list(result["gradient"]) == ["3,4,5,6", "2 seeds of 3,4,5,6"]
    for times in result["gradient"].values():
        assert set(times) == {rl.LINEN, rl.NNX, rl.OURS, rl.PLAIN}
    assert "Geometric mean" in Path("out", "rl.md").read_text()
    # A ScannedRNN that never resets computes something else.
    monkeypatch.setattr(rl, "START_PROBABILITY", 1.0)
    unchanged = rl.losses

    def without_resets(seeds, size):
        found = unchanged(seeds, size)
        return {**found, rl.OURS: found[rl.PLAIN]}

    monkeypatch.setattr(rl, "losses", without_resets)
    with pytest.raises(UserError, match="differ"):
        rl.time_gradients(1, small, 0.01)
