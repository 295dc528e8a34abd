"""Laws of forecasting one's own series: no leak, masks, and one computation in all its places."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from experiments.errors import UserError
from experiments.export_formats import to_onnx, to_stablehlo
from experiments.own_data.dataset import Dataset, Feature
from experiments.own_data.encoding import fit_encoding
from experiments.own_data.forecasts import baselines
from experiments.own_data.forecasts.windows import make_windows
from experiments.own_data.metrics import number_metrics
from experiments.own_data.problems import forecasting
from experiments.own_data.splits import split_dataset
from gru_jax import export
from tests.experiments.own_data.tables import HOUR, config
from tests.slow import slow_but

STEPS, SERIES = 120, 4


def series(*, gaps=True, known_ahead=False, seed=0):
    """Series with a category, a number, and values of the target that are missing."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(size=(SERIES, 1)) * 20
    load = levels + np.cumsum(rng.normal(size=(SERIES, STEPS)), axis=1)
    if gaps:
        load[rng.random(load.shape) < 0.1] = np.nan
    other = rng.normal(size=load.shape)
    kind = np.repeat(np.arange(SERIES)[:, None] % 3, STEPS, axis=1)
    times = np.datetime64("2024-01-01", "ns") + np.arange(STEPS) * HOUR
    return Dataset(
        features=(
            Feature("load"),
            Feature("price", known_ahead=known_ahead),
            Feature("kind", ("a", "b", "c"), known_ahead),
        ),
        names=tuple(f"s{index}" for index in range(SERIES)),
        inputs=tuple(np.stack([load, other, kind], axis=-1)),
        times=(times,) * SERIES,
    )


def settings(**changes):
    data = {"known_ahead": ["price", "kind"]} if changes.pop("known_ahead", False) else {}
    return config("series", data={**data, **changes.pop("data", {})}, **changes)


def windows_of(chosen, dataset):
    splits = split_dataset(dataset, chosen.data)
    return make_windows(chosen, dataset, splits, fit_encoding(dataset, splits, chosen.data))


@pytest.mark.parametrize("feature", [0, 1])
@pytest.mark.parametrize("offset", [1e8, -1e10])
def test_numbers_that_float32_cannot_tell_apart_are_an_error(feature, offset):
    dataset = series()
    inputs = tuple(values + offset * (np.arange(3) == feature) for values in dataset.inputs)
    dataset = dataclasses.replace(dataset, inputs=inputs)
    name = dataset.features[feature].name
    with pytest.raises(UserError, match=rf"{name} is .* float32 cannot tell apart.* subtract"):
        windows_of(settings(), dataset)


def test_large_numbers_that_float32_can_tell_apart():
    dataset = series()
    inputs = tuple(values + 1e4 * (np.arange(3) == 0) for values in dataset.inputs)
    windows = windows_of(settings(), dataclasses.replace(dataset, inputs=inputs))
    plain = windows_of(settings(), dataset)
    np.testing.assert_allclose(windows.rows[:, 0], plain.rows[:, 0] + 1e4, atol=2e-3)


def changed_from(dataset, begin):
    """The data set with other values from a step on."""
    rng = np.random.default_rng(7)
    inputs = []
    for values in dataset.inputs:
        values = values.copy()
        values[begin:, 0] = 1000 * rng.normal(size=len(values) - begin)
        values[begin:, 1] = np.nan
        values[begin:, 2] = 0
        inputs.append(values)
    return dataclasses.replace(dataset, inputs=tuple(inputs))


@pytest.mark.parametrize("scale", slow_but(["sequence"], ["all", "sequence", "none"]))
@pytest.mark.parametrize("known_ahead", slow_but([False], [False, True]))
def test_what_is_not_for_training_changes_no_training(scale, known_ahead):
    chosen = settings(known_ahead=known_ahead, data={"scale": scale})
    dataset = series(known_ahead=known_ahead)
    # Train 70 %, validation 15 %.
    ours = forecasting.build(chosen, dataset)
    theirs = forecasting.build(chosen, changed_from(dataset, int(0.7 * STEPS)))
    assert ours.data.values["encoding"] == theirs.data.values["encoding"]
    for step in range(20):
        jax.tree.map(np.testing.assert_array_equal, ours.batch_at(step), theirs.batch_at(step))
    # The penalty of the linear map is chosen on the validation part, nothing on the test part.
    theirs = forecasting.build(chosen, changed_from(dataset, int(0.85 * STEPS)))
    assert ours.data.values == theirs.data.values
    assert ours.evaluate(ours.params, "validation") == theirs.evaluate(theirs.params, "validation")
    assert ours.evaluate(ours.params, "test") != theirs.evaluate(theirs.params, "test")


def test_targets_do_not_cross_a_border():
    dataset = series(gaps=False)
    counted = np.arange(float(STEPS))
    inputs = tuple(
        np.stack([counted + 1000 * index, *np.zeros((2, STEPS))], -1) for index in range(SERIES)
    )
    windows = windows_of(settings(), dataclasses.replace(dataset, inputs=inputs))
    borders = {"train": (0, 84), "validation": (84, 102), "test": (102, 120)}
    for part, (begin, end) in borders.items():
        batch = windows.gather(part, np.arange(len(windows.starts[part])))
        of_series, step = np.divmod(batch.targets[..., 0], 1000)
        assert step.min() == max(begin, 24)
        assert step.max() == end - 1
        np.testing.assert_array_equal(batch.targets[:, 0, 0] - batch.inputs[:, -1, 0], 1)
        # Inputs are of the same series.
        assert (batch.inputs[..., 0] // 1000 == of_series[:, :1]).all()


def test_missing_targets_do_not_count():
    """The loss of a batch is that of its given targets; what else stands there is not read."""
    chosen = settings()
    task = forecasting.build(chosen, series())
    batch = task.batch_at(0)
    is_missing = np.isnan(batch.targets)
    assert is_missing.any()
    loss = jax.jit(jax.value_and_grad(lambda params, batch: task.loss(params, batch, None)[0]))
    value, gradients = loss(task.params, batch)
    doubled = jax.tree.map(lambda each: np.concatenate([each, each]), batch)
    none = doubled._replace(targets=doubled.targets.copy())
    none.targets[len(batch.targets) :] = np.nan
    np.testing.assert_allclose(loss(task.params, none)[0], value, rtol=1e-5)
    assert task.batch_weight(none) == task.batch_weight(batch) == (~is_missing).sum()
    chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize("scale", ["all", "sequence"])
def test_forecasts_move_with_the_level(scale):
    """With scale "sequence" nothing but the last value depends on a series' level and unit."""
    chosen = settings(data={"scale": scale})
    task = forecasting.build(chosen, series(gaps=False))
    inputs = np.asarray(task.batch_at(0).inputs)
    before = task.export_spec.apply(task.params, inputs, None)
    moved = inputs.copy()
    moved[..., 0] = 3 * moved[..., 0] + 50
    after = task.export_spec.apply(task.params, moved, None)
    is_same = np.allclose(after, 3 * before + 50, rtol=1e-3, atol=1e-2)
    assert is_same == (scale == "sequence")


def test_the_future_is_not_read():
    """Of the steps of the horizon, only what is known ahead is an input."""
    chosen = settings(known_ahead=True)
    task = forecasting.build(chosen, series(known_ahead=True))
    inputs = np.asarray(task.batch_at(0).inputs)
    before = np.asarray(task.export_spec.apply(task.params, inputs, None))
    other = inputs.copy()
    other[:, chosen.window :, 0] = 1e6
    after = np.asarray(task.export_spec.apply(task.params, other, None))
    np.testing.assert_array_equal(after, before)
    other[:, chosen.window :, 1] += 1
    after = np.asarray(task.export_spec.apply(task.params, other, None))
    assert (np.abs(after - before).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("scale", slow_but(["sequence"], ["all", "sequence"]))
@pytest.mark.parametrize("known_ahead", slow_but([True], [False, True]))
def test_what_is_exported_forecasts_what_predict_does(tmp_path, scale, known_ahead):
    ort = pytest.importorskip("onnxruntime")
    chosen = settings(known_ahead=known_ahead, data={"scale": scale})
    dataset = series(known_ahead=known_ahead)
    task = forecasting.build(chosen, dataset)
    model = forecasting.restore(chosen, task.data.values, "data.json")
    new = dataset
    if known_ahead:
        new = dataclasses.replace(dataset, inputs=tuple(each.copy() for each in dataset.inputs))
        for values in new.inputs:
            values[-chosen.horizon :, 0] = np.nan
    predicted = np.stack(model.predict(task.params, new).columns["load"])
    assert predicted.shape == (SERIES, chosen.horizon)
    ends = [np.flatnonzero(np.isfinite(values[:, 0]))[-1] + 1 for values in new.inputs]
    steps = chosen.window + (chosen.horizon if known_ahead else 0)
    inputs = np.stack(
        [
            values[end - chosen.window : end - chosen.window + steps]
            for values, end in zip(new.inputs, ends, strict=True)
        ]
    ).astype(np.float32)
    written = to_onnx(chosen, model.export_spec, task.params)["model.onnx"]
    session = ort.InferenceSession(written)
    np.testing.assert_allclose(
        session.run(["outputs"], {"inputs": inputs})[0][..., 0], predicted, rtol=1e-4, atol=1e-4
    )
    (tmp_path / "model.zip").write_bytes(
        to_stablehlo(chosen, model.export_spec, task.params)["model.zip"]
    )
    program = export.load(tmp_path / "model.zip")
    np.testing.assert_allclose(program.call(inputs)[..., 0], predicted, rtol=1e-5, atol=1e-5)


def test_a_restored_model_forecasts_new_series():
    chosen = settings()
    dataset = series()
    task = forecasting.build(chosen, dataset)
    model = forecasting.restore(chosen, task.data.values, "data.json")
    short = dataclasses.replace(
        dataset,
        names=("new",),
        inputs=(dataset.inputs[0][:9],),
        times=(dataset.times[0][:9],),
    )
    predictions = model.predict(task.params, short)
    assert np.isfinite(predictions.columns["load"][0]).all()
    end = np.flatnonzero(np.isfinite(short.inputs[0][:, 0]))[-1]
    np.testing.assert_array_equal(
        predictions.times[0], short.times[0][end] + HOUR * np.arange(1, chosen.horizon + 1)
    )


def test_a_corrupted_record_is_named():
    chosen = settings()
    values = dict(forecasting.build(chosen, series()).data.values)
    for key, wrong in (("weights", [[1.0]]), ("bias", "no"), ("encoding", {})):
        with pytest.raises(UserError, match=r"^data.json is corrupted"):
            forecasting.restore(chosen, {**values, key: wrong}, "data.json")


def test_the_linear_map_is_a_ridge_regression():
    chosen = settings(data={"inputs": []})
    dataset = series(gaps=False)
    windows = windows_of(chosen, dataset)
    mean, deviation = np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0)
    weights, bias = baselines.fit_linear(windows, mean, deviation, of_windows=False)
    features, targets = baselines.differences(
        windows, "train", 10**6, mean, deviation, of_windows=False
    )
    checked, truth = baselines.differences(
        windows, "validation", 10**6, mean, deviation, of_windows=False
    )
    fits = [
        Ridge(alpha=penalty * len(features)).fit(features.astype(float), targets)
        for penalty in baselines.PENALTIES
    ]
    best = min(fits, key=lambda fit: np.mean(np.square(fit.predict(checked) - truth)))
    np.testing.assert_allclose(weights.T, best.coef_, atol=1e-4)
    np.testing.assert_allclose(bias, best.intercept_, atol=1e-4)


def test_the_linear_map_is_fitted_to_the_given_targets_of_each_step():
    windows = windows_of(settings(), series())
    mean, deviation = np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0)
    weights, bias = baselines.fit_linear(windows, mean, deviation, of_windows=False)
    features, targets = baselines.differences(
        windows, "train", 10**6, mean, deviation, of_windows=False
    )
    given = np.isfinite(targets[:, 3])
    assert not given.all()
    found = []
    for penalty in baselines.PENALTIES:
        fit = Ridge(alpha=penalty * len(features)).fit(
            features[given].astype(float), targets[given, 3]
        )
        found.append(np.abs(fit.coef_ - weights[:, 3]).max() + abs(fit.intercept_ - bias[3]))
    assert min(found) < 1e-4


def test_seasonal_naive_and_last_value():
    chosen = settings(window=24, horizon=6, season=4)
    dataset = series(gaps=False)
    periodic = np.tile([1.0, 2, 3, 4], STEPS // 4)
    inputs = tuple(np.stack([periodic, *np.zeros((2, STEPS))], -1) for _ in range(SERIES))
    task = forecasting.build(chosen, dataclasses.replace(dataset, inputs=inputs))
    found = task.evaluate_baselines()
    assert found["seasonal naive (4 steps)"]["mse"] == 0
    assert found["last value"]["mse"] > 1
    assert found["linear map of 24 steps"]["mse"] < 1e-3


def test_metrics_are_in_the_unit_of_a_single_target():
    batch = windows_of(settings(), series()).gather("test", np.arange(5))
    forecasts = np.nan_to_num(batch.targets) + 3
    found = number_metrics(forecasts, batch.targets, batch.deviation)
    np.testing.assert_allclose([found["mse"], found["mae"]], [9, 3], rtol=1e-5)
    scaled = np.broadcast_to(3 / batch.deviation[:, None], batch.targets.shape)
    given = np.isfinite(batch.targets)
    np.testing.assert_allclose(found["scaled_mae"], scaled[given].mean(), rtol=1e-5)
    two = [np.concatenate([each, each], axis=-1) for each in (forecasts, *batch[1:])]
    assert set(number_metrics(*two)) == {"scaled_mse", "scaled_mae"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"window": 200}, "window is 200 and horizon is 6, but no sequence has a window"),
        ({"horizon": 60, "window": 80}, "but no sequence has a window with targets in the"),
        ({"known_ahead": True, "window": 4}, "horizon is 6, but should be at most window, 4"),
    ],
)
def test_windows_that_do_not_fit(changes, expected):
    known_ahead = changes.get("known_ahead", False)
    with pytest.raises(UserError, match=expected):
        forecasting.build(settings(**changes), series(known_ahead=known_ahead))


def test_a_target_that_is_constant_in_the_training_part():
    dataset = series(gaps=False)
    inputs = [values.copy() for values in dataset.inputs]
    for values in inputs:
        values[: int(0.7 * STEPS), 0] = 5
    with pytest.raises(UserError, match=r"load is 5 everywhere in the training part"):
        forecasting.build(settings(), dataclasses.replace(dataset, inputs=tuple(inputs)))


def test_rows_ahead_are_asked_for():
    chosen = settings(known_ahead=True)
    dataset = series(gaps=False, known_ahead=True)
    task = forecasting.build(chosen, dataset)
    model = forecasting.restore(chosen, task.data.values, "data.json")
    with pytest.raises(UserError, match="has 0 rows after its last value of load, but 6 are to be"):
        model.predict(task.params, dataset)
