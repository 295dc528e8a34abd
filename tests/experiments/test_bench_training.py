"""Training runs of the benchmark for GPUs, here on a CPU."""

import contextlib
import gzip
import json

import jax
import jax.numpy as jnp
import pytest
import yaml
from flax import nnx

from experiments.bench import music
from experiments.bench.gpu import training
from experiments.config import ModelConfig
from experiments.models.flax_layers import use_flax_layers
from experiments.models.recurrent import build_network

MODEL = ModelConfig(hidden_size=4, num_layers=2, dropout=0.5)


@pytest.fixture
def flax_network():
    with use_flax_layers():
        return build_network(MODEL, 3, 2, readout="every step", seed=0)


def test_flax_layers_stream_and_stop(flax_network):
    params, xs = flax_network.params, jax.random.normal(jax.random.key(0), (2, 7, 3))
    whole, last = flax_network.run(params, xs)
    first, carry = flax_network.run(params, xs[:, :3])
    second, end = flax_network.run(params, xs[:, 3:], carry=carry)
    assert jnp.allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-6), end, last))
    held = flax_network.run(params, xs, lengths=jnp.array([3, 7]))[1]
    assert all(jnp.allclose(a[0], b[0], atol=1e-6) for a, b in zip(held, carry, strict=True))
    kinds = {
        type(node)
        for _, node in nnx.iter_graph(
            nnx.merge(flax_network.graphdef, params, flax_network.rng_state)
        )
    }
    assert nnx.GRUCell in kinds


def test_dropout_depends_on_the_key(flax_network):
    xs = jnp.ones((1, 2, 3))
    a, b, again = (
        flax_network.apply(flax_network.params, xs, key=jax.random.key(seed)) for seed in (0, 1, 0)
    )
    assert not jnp.allclose(a, b)
    assert jnp.array_equal(a, again)


def test_dropconnect_zeroes_the_same_weights_of_either_library():
    model = ModelConfig(hidden_size=4, dropconnect=0.5)
    for is_flax in (False, True):
        with use_flax_layers() if is_flax else contextlib.nullcontext():
            network = build_network(model, 3, 2, readout="every step", seed=0)
        dropped = network.drop_recurrent_weights(network.params, jax.random.key(0))
        changed = {
            jax.tree_util.keystr(path)
            for (path, new), old in zip(
                jax.tree.leaves_with_path(dropped), jax.tree.leaves(network.params), strict=True
            )
            if not jnp.array_equal(new, old)
        }
        (path,) = changed
        assert ("dense_h" if is_flax else "w_h") in path


@pytest.mark.slow
def test_a_train_step_of_music_is_timed_with_either_library(published_data):
    times = music.time_training(published_data, 0.1)
    assert times.keys() == {"gru_jax", "nnx.RNN(nnx.GRUCell)"}


def write_trace(folder, events):
    folder.mkdir()
    with gzip.open(folder / "vm.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)


def name(kind, pid, text, tid=None):
    event = {"ph": "M", "name": kind, "pid": pid, "args": {"name": text}}
    return event if tid is None else {**event, "tid": tid}


def span(pid, tid, begin, end):
    return {"ph": "X", "pid": pid, "tid": tid, "ts": begin, "dur": end - begin, "name": "kernel"}


def test_the_share_is_of_the_union_of_all_streams(tmp_path):
    events = [
        name("process_name", 1, "/device:GPU:0"),
        name("process_name", 2, "/host:CPU"),
        name("thread_name", 1, "Stream #1(Compute)", 7),
        name("thread_name", 1, "Stream #2(MemcpyH2D)", 8),
        name("thread_name", 1, "XLA Modules", 9),
        name("thread_name", 2, "Stream of thoughts", 7),
        span(1, 7, 0, 10),
        span(1, 8, 5, 20),
        span(1, 7, 30, 40),
        span(1, 9, 0, 100),
        span(2, 7, 0, 100),
    ]
    write_trace(tmp_path / "trace", events)
    assert training.busy_share(tmp_path) == pytest.approx(30 / 40)


def test_a_trace_of_a_cpu_has_no_share(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        jnp.ones(3).block_until_ready()
    assert training.busy_share(tmp_path) is None


def test_runs_are_reported_one_by_one(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 60)
    config = tmp_path / "small.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "task": "language",
                "data_file": str(tmp_path / "text.txt"),
                "window": 5,
                "model": {"hidden_size": 4, "num_layers": 2},
                "training": {"steps": 6, "batch_size": 2, "eval_every": 3},
            }
        )
    )
    monkeypatch.setattr(training, "TRACED", 2)
    runs = [(str(config), training.OURS), (str(config), training.FLAX), ("absent", training.OURS)]
    text = training.time_trainings(tmp_path, 600, "the command", runs)
    ours, flax, absent = json.loads((tmp_path / "training.json").read_text())["rows"]
    for row in (ours, flax):
        assert row["steps"] == row["of_steps"] == 6
        assert row["test"].keys() == {"bits_per_character"}
    assert ours["test"] != flax["test"]
    assert "absent" in absent["skipped"]
    assert "6 of 6" in text
    assert text == (tmp_path / "training.md").read_text()


def test_out_of_time_is_told(tmp_path):
    text = training.time_trainings(tmp_path, -1, "the command", [("shakespeare", training.OURS)])
    assert "not run: out of time" in text
