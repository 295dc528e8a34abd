"""Metrics of a split are the same on one device and on several, which divide it."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.evaluation import mean_over_rows, on_one_device, over_devices, to_host
from experiments.runs.config_loading import check
from experiments.runs.mesh import make_mesh
from experiments.tasks import load_task
from tests.experiments import test_forecasting, test_translation
from tests.experiments.test_music import music_file
from tests.slow import slow


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": 4})


def on_mesh(params, mesh):
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


@pytest.mark.parametrize(
    ("rows", "expected"), [(8, [(8, 2)]), (11, [(8, 2), (3, 3)]), (3, [(3, 3)])]
)
def test_devices_divide_what_they_can(mesh, rows, expected):
    batch = {"x": np.arange(3 * rows).reshape(rows, 3), "y": np.arange(rows)}
    parts = list(over_devices(on_mesh(np.zeros(2), mesh), [batch]))
    shapes = [(len(part["y"]), len(part["y"].addressable_data(0))) for part in parts]
    assert shapes == expected
    for name, array in batch.items():
        joined = np.concatenate([to_host(part[name]) for part in parts])
        np.testing.assert_array_equal(joined, array)


def test_one_device_gets_batches_as_they_are():
    batches = [np.arange(3), np.arange(2)]
    for params in (jax.numpy.zeros(2), np.zeros(2)):
        assert list(over_devices(params, batches)) == batches
        assert on_one_device(params) is params


def test_means_are_weighted_by_elements(mesh):
    xs, weights = np.random.default_rng(0).random((2, 11)).astype(np.float32)

    @jax.jit
    def means(params, batch):
        xs, weights = batch
        return {"mean": params * (xs * weights).sum() / weights.sum()}

    metrics = mean_over_rows(
        means, on_mesh(np.float32(2), mesh), (xs, weights), weight=lambda batch: batch[1].sum()
    )
    assert metrics == {"mean": pytest.approx(2 * np.average(xs, weights=weights), rel=1e-6)}
    # On one device as the function has it, without a rounding.
    assert mean_over_rows(means, np.float32(2), (xs, weights)) == means(
        np.float32(2), (xs, weights)
    )


def build(task, directory, monkeypatch):
    values = {"model": {"hidden_size": 4}, "training": {"batch_size": 4}, "task": task}
    if task == "music":
        directory = music_file(directory, monkeypatch)
    elif task == "forecasting":
        hours = np.random.default_rng(0).normal(size=(test_forecasting.HOURS, 7)).cumsum(axis=0)
        return test_forecasting.build(hours, directory, monkeypatch, window=24, horizon=5)
    elif task == "translation":
        directory = test_translation.publish(directory, monkeypatch)
        values = test_translation.TINY
    elif task == "language":
        path = directory / "text.txt"
        path.write_text("to be or not to be, that is the question. " * 500)
        values |= {"data_file": str(path), "window": 5}
    elif task in ("adding", "copy"):
        values |= {"length": 5, "held_out": 21}
    elif task == "video":
        values |= {"held_out": 53, "frames": 5, "model": {"hidden_size": 2, "num_layers": 1}}
    elif task == "rl":
        pytest.importorskip("gymnax", reason="gymnax is not installed")
        values |= {"held_out": 5}
    module = load_task(task)
    return module.build(check(module.Config, values, where="test"), directory)


TASKS = ["adding", "digits", slow("copy"), slow("forecasting"), slow("language"), slow("music")]
TASKS += [slow("rl"), slow("translation"), slow("video")]


@pytest.mark.parametrize("task", TASKS)
def test_metrics_are_those_of_one_device(task, mesh, tmp_path, monkeypatch):
    task = build(task, tmp_path, monkeypatch)
    placed = on_mesh(task.params, mesh)
    for split in ("validation", "test"):
        expected = task.evaluate(task.params, split)
        assert task.evaluate(placed, split) == pytest.approx(expected, rel=1e-5)
