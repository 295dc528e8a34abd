"""The benchmark: what it compares computes the same, and what it writes says what it measured."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import gru_jax
from experiments.bench import implementations as contenders
from experiments.bench import report
from experiments.bench.baselines import (
    Shape,
    as_reset_before,
    installed_peers,
    make_problem,
    of_jax,
)
from experiments.bench.timing import interleave
from experiments.cli import main
from experiments.errors import UserError
from experiments.runs import provenance

ROOT = Path(__file__).parents[2]
SHAPE = Shape(batch=2, time=5, input=3, hidden=4)


@pytest.mark.parametrize("name", sorted(installed_peers()))
def test_installed_peers_compute_what_ours_does(name):
    # Other libraries rely on implicit promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert list(contenders.make_contenders([name], make_problem(SHAPE))) == [name]


@pytest.mark.parametrize("options", contenders.OURS.values(), ids=contenders.OURS)
def test_ways_of_ours_compute_the_same(options):
    problem = make_problem(SHAPE)
    ours = contenders.ours(problem, **options)
    plain = contenders.ours(problem, implementation="scan")
    np.testing.assert_allclose(ours.outputs(), plain.outputs(), atol=1e-6)
    np.testing.assert_allclose(ours.input_gradient(), plain.input_gradient(), atol=1e-5)


def test_a_peer_with_two_gates_swapped_is_refused(monkeypatch):
    problem = make_problem(SHAPE)

    def swapped(problem):
        r, z, n = np.split(problem.params.w_x, 3, axis=-1)
        wrong = dataclasses.replace(problem.params, w_x=np.concatenate([z, r, n], axis=-1))
        return dataclasses.replace(
            contenders.ours(dataclasses.replace(problem, params=wrong)), params=problem.params
        )

    monkeypatch.setitem(contenders.PEERS, "swapped", ("jax", swapped))
    with pytest.raises(UserError, match=r"outputs of swapped differ from ours"):
        contenders.make_contenders(["swapped"], problem)


def test_a_peer_with_another_derivative_is_refused(monkeypatch):
    def stopped(problem):
        def apply(params, xs):
            return gru_jax.unroll(params, jax.lax.stop_gradient(xs))[1]

        return of_jax(problem, apply, problem.params)

    monkeypatch.setitem(contenders.PEERS, "stopped", ("jax", stopped))
    with pytest.raises(UserError, match=r"gradients of stopped differ from ours"):
        contenders.make_contenders(["stopped"], make_problem(SHAPE))


def test_the_reset_before_has_no_bias_of_its_own():
    params = as_reset_before(make_problem(SHAPE).params)
    params.validate()
    assert (params.reset, params.b_hn) == ("before", None)


def test_rounds_are_interleaved_and_each_has_an_order_of_its_own():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleave(runs, seconds=0, burst_ms=0)
    # Each is called twice ahead of all rounds.
    assert order[:6] == [*"aabbcc"]
    rounds = ["".join(order[at : at + 3]) for at in range(6, len(order), 3)]
    assert len(rounds) == 5
    assert {"".join(sorted(names)) for names in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert {spread["rounds"] for spread in times.values()} == {5}
    assert all(spread["min"] <= spread["median"] <= spread["high"] for spread in times.values())


def test_ratios_are_of_medians_and_leave_ours_and_the_products_out_of_the_peers():
    medians = {"gru_jax": 2.0, "gru_jax, scan": 1.0, "products alone": 1.5, "a": 5.0, "b": 4.0}
    times = {name: {"median": value} for name, value in medians.items()}
    result = {"gradient": {"1,2,3,4": times}}
    assert report.best_peer(times) == ("b", 4.0)
    assert report.ratios(result, "gradient") == {"1,2,3,4": {"best peer": 2.0, "products": 0.75}}


def test_the_plot_holds_all_contenders(tmp_path):
    result = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())
    assert set(result["contenders"]) >= set(contenders.OURS)
    report.draw(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_writes_figures_table_and_plot(workplace, capsys):
    sizes, names = str(SHAPE), ("gru_jax", "products alone", "linen")
    options = ["--seconds", "0.1", "--music", "False", "--output", "out"]
    options += ["--shapes", sizes, "--long", sizes, "--layers", sizes, "--cells", sizes]
    assert main(["bench", *options, "--contenders", *names]) == 0

    result = json.loads(Path("out", "bench.json").read_text())
    assert list(result["contenders"]) == list(names)
    assert list(result["gradient"][sizes]) == list(result["forward"][sizes]) == list(names)
    assert all(row["median"] > 0 for row in result["gradient"][sizes].values())
    assert result["process"][sizes]["linen"]["first_ms"] > 0
    assert all(row["gflops"] > 0 for row in result["products"][sizes].values())
    assert set(result["long"][sizes]) == {"gru_jax"}
    assert [*result["layers"][sizes]] == ["1 one way", "1 both ways", "2 one way", "2 both ways"]
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


def test_missing_data_are_named_before_anything_is_timed(refused, monkeypatch):
    monkeypatch.setattr(contenders, "make_contenders", lambda *_: pytest.fail("timed already"))
    assert "JSB_Chorales.mat" in refused("bench", "--data-dir", "nowhere")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--shapes", "1,2,3"], ["--shapes", "1,2,3", "batch,time,input,hidden"]),
        (["--shapes", "1,2,3,0"], ["--shapes", "1,2,3,0"]),
        (["--shapes", "a,2,3,4"], ["--shapes", "a,2,3,4"]),
        (["--long", "1,2,3"], ["--long", "1,2,3"]),
        (["--layers", "1,2"], ["--layers", "1,2"]),
        (["--contenders", "linnen"], ["linnen", "Did you mean linen?", "bench"]),
        (["--seconds", "0"], ["--seconds", "0"]),
    ],
)
def test_wrong_options_are_named(options, expected, refused):
    message = refused("bench", *options)
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
def test_the_processor_is_named_by_its_vectors(tmp_path, cpuinfo, expected):
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
def test_tables_are_those_of_the_figures(name):
    result = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    assert (ROOT / "benchmarks" / f"{name}.md").read_text() == report.to_markdown(result)
