"""Laws of imputation: no leak, given values stay, and one computation in all its places."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.errors import UserError
from experiments.export_formats import to_onnx, to_stablehlo
from experiments.own_data.dataset import Dataset, Feature
from experiments.own_data.gaps.windows import HIDDEN, hidden
from experiments.own_data.problems import imputation
from gru_jax import export
from tests.experiments.own_data.tables import config
from tests.slow import slow_but

WINDOW = 12


def series(number=10, seed=0):
    """Series of unequal lengths, two numbers with gaps and a category."""
    rng = np.random.default_rng(seed)
    inputs = []
    for length in rng.integers(5, 40, number):
        values = np.cumsum(rng.normal(size=(length, 2)), axis=0) * [1, 20] + [5, 300]
        values[rng.random(values.shape) < 0.15] = np.nan
        inputs.append(np.column_stack([values, rng.integers(0, 3, length)]))
    return Dataset(
        features=(Feature("level"), Feature("flow"), Feature("kind", ("a", "b", "c"))),
        names=tuple(f"s{index}" for index in range(number)),
        inputs=tuple(inputs),
    )


def settings(**changes):
    data = {"target": [], "split": "sequence", "step": None, **changes.pop("data", {})}
    model = {"hidden_size": 5, "bidirectional": True}
    return config("series", problem="imputation", window=WINDOW, data=data, model=model, **changes)


@pytest.mark.parametrize("scale", slow_but(["all"], ["all", "sequence"]))
def test_what_is_not_for_training_changes_no_training(scale):
    chosen = settings(data={"scale": scale, "split": "time"})
    dataset = series()
    rng = np.random.default_rng(1)
    inputs = []
    for values in dataset.inputs:
        values = values.copy()
        begin = round(0.7 * len(values))
        values[begin:, :2] = 1000 * rng.normal(size=(len(values) - begin, 2))
        inputs.append(values)
    other = dataclasses.replace(dataset, inputs=tuple(inputs))
    ours, theirs = imputation.build(chosen, dataset), imputation.build(chosen, other)
    assert ours.data.values == theirs.data.values
    for step in range(20):
        jax.tree.map(np.testing.assert_array_equal, ours.batch_at(step), theirs.batch_at(step))
    assert ours.evaluate(ours.params, "test") != theirs.evaluate(theirs.params, "test")


def test_what_is_hidden_is_no_input():
    task = imputation.build(settings(), series())
    batch = task.batch_at(3)
    is_target = np.isfinite(batch.targets)
    assert is_target.any()
    assert np.isnan(batch.inputs[..., :2][is_target]).all()
    assert task.batch_weight(batch) == is_target.sum()
    again, next_one = task.batch_at(3), task.batch_at(4)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    assert not np.array_equal(np.isfinite(next_one.targets), is_target)


def test_a_fifth_of_the_values_is_hidden():
    for seed in range(3):
        assert abs(hidden((400, 30, 5), (seed,)).mean() - HIDDEN) < 0.02


@pytest.mark.parametrize("scale", ["all", "sequence"])
def test_given_values_stay_and_the_line_is_that_of_pandas(scale):
    task = imputation.build(settings(data={"scale": scale}), series())
    model = imputation.restore(settings(data={"scale": scale}), task.data.values, "data.json")
    inputs = np.asarray(task.batch_at(0).inputs)
    filled = np.asarray(model.export_spec.apply(task.params, inputs, None))
    given = np.isfinite(inputs[..., :2])
    np.testing.assert_array_equal(filled[given], inputs[..., :2][given])
    assert np.isfinite(filled).all()
    pre_post = model.export_spec.pre_post
    off = np.asarray(pre_post.after(inputs, np.zeros_like(filled)))
    for window, line in zip(inputs, off, strict=True):
        wanted = pd.DataFrame(window[:, :2]).interpolate(limit_direction="both")
        mean = pre_post.constant("mean")[0, 0]
        wanted = wanted.fillna({place: value for place, value in enumerate(mean)})
        np.testing.assert_allclose(line, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", slow_but(["sequence"], ["all", "sequence"]))
def test_what_is_exported_fills_what_predict_does(tmp_path, scale):
    ort = pytest.importorskip("onnxruntime")
    chosen = settings(data={"scale": scale})
    dataset = series()
    task = imputation.build(chosen, dataset)
    model = imputation.restore(chosen, task.data.values, "data.json")
    short = [place for place, each in enumerate(dataset.inputs) if len(each) <= WINDOW]
    assert short
    predictions = model.predict(task.params, dataset)
    inputs = np.full((len(short), WINDOW, 3), np.nan, np.float32)
    for row, place in zip(inputs, short, strict=True):
        row[: len(dataset.inputs[place])] = dataset.inputs[place]
    written = to_onnx(chosen, model.export_spec, task.params)["model.onnx"]
    by_onnx = ort.InferenceSession(written).run(["outputs"], {"inputs": inputs})[0]
    programs = to_stablehlo(chosen, model.export_spec, task.params)
    assert list(programs) == ["model.zip"]
    (tmp_path / "model.zip").write_bytes(programs["model.zip"])
    by_jax = np.asarray(export.load(tmp_path / "model.zip").call(inputs))
    for row, place in enumerate(short):
        length = len(dataset.inputs[place])
        wanted = np.stack([predictions.columns[name][place] for name in ("level", "flow")], -1)
        np.testing.assert_allclose(by_jax[row, :length], wanted, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(by_onnx[row, :length], wanted, rtol=1e-4, atol=1e-3)


def test_long_sequences_are_filled_by_windows():
    def fill(windows):
        """Fills with the place in the window."""
        places = np.broadcast_to(np.arange(10.0)[:, None], windows[..., :1].shape)
        return np.where(np.isnan(windows[..., :1]), places, windows[..., :1])

    values = np.full((33, 2), np.nan, np.float32)
    values[::4] = 100
    filled = imputation.complete(fill, values, 10)
    assert filled.shape == (33, 1)
    assert (filled[::4] == 100).all()
    # Those in the middle of a sequence are in the middle of a window.
    inner = np.setdiff1d(np.arange(5, 28), np.arange(0, 33, 4))
    assert filled[inner].min() >= 2
    assert filled[inner].max() <= 7
    assert (filled[[1, 2, 3]].ravel() == [1, 2, 3]).all()


def test_baselines():
    task = imputation.build(settings(), series())
    found = task.evaluate_baselines()
    assert list(found) == ["mean", "last value", "line between neighbours"]
    assert found["line between neighbours"]["scaled_mse"] < found["mean"]["scaled_mse"]


def test_the_last_value_is_carried_forward():
    task = imputation.build(settings(), series())
    model = imputation.restore(settings(), task.data.values, "data.json")
    inputs = np.asarray(task.batch_at(0).inputs)
    found = imputation.carried_forward(model.export_spec.pre_post, inputs)
    mean = model.export_spec.pre_post.constant("mean")[0, 0]
    for window, ours in zip(inputs, found, strict=True):
        wanted = pd.DataFrame(window[:, :2]).ffill()
        wanted = wanted.fillna({place: value for place, value in enumerate(mean)})
        np.testing.assert_array_equal(ours, wanted)


def test_only_numbers_are_imputed():
    dataset = dataclasses.replace(series(), features=(Feature("kind", ("a",)),))
    inputs = tuple(np.zeros((len(values), 1)) for values in dataset.inputs)
    with pytest.raises(UserError, match="no feature is a number"):
        imputation.build(settings(), dataclasses.replace(dataset, inputs=inputs))


def test_a_corrupted_record_is_named():
    with pytest.raises(UserError, match=r"^data.json is corrupted"):
        imputation.restore(settings(), {"encoding": {}}, "data.json")
