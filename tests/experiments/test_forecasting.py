"""Properties of the forecasting task: splits, baselines, metrics."""

import datetime
import re

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.runs.config_loading import check
from experiments.tasks import forecasting
from experiments.tasks.forecasting import HOURS, TRAIN_HOURS, Windows
from tests.experiments.fake_dataset import publish
from tests.slow import slow

HEADER = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"


def table(hours):
    begin = datetime.datetime(2016, 7, 1)
    rows = [
        f"{begin + datetime.timedelta(hours=index)}," + ",".join(map(repr, row.tolist()))
        for index, row in enumerate(hours)
    ]
    return "\n".join([HEADER, *rows]).encode()


def build(hours, tmp_path, monkeypatch, **changes):
    directory = publish("etth1", table(hours), tmp_path, monkeypatch)
    values = {"task": "forecasting", "model": {"hidden_size": 3}, **changes}
    return forecasting.build(check(forecasting.Config, values, where="test"), directory)


@pytest.fixture(scope="module")
def counted():
    """Hours with their index as value."""
    return np.arange(HOURS, dtype=float)[:, None] + np.arange(7) * 1e5


def test_splits_are_twelve_four_and_four_months(counted, tmp_path, monkeypatch):
    task = build(counted, tmp_path, monkeypatch, training={"batch_size": 8})
    train = counted[:TRAIN_HOURS, 0]
    for step in range(20):
        batch = task.batch_at(step)
        hour = batch.inputs[..., 0] * train.std() + train.mean()
        after = batch.targets[..., 0] * train.std() + train.mean()
        np.testing.assert_allclose(np.diff(hour, axis=1), 1, atol=1e-2)
        np.testing.assert_allclose(after[:, 0], hour[:, -1] + 1, atol=1e-2)
        assert hour.min() > -0.5
        assert after.max() < TRAIN_HOURS - 0.5


def test_a_horizon_longer_than_a_split(counted, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"window is 96 and horizon is 10000, but the train split"):
        build(counted, tmp_path, monkeypatch, horizon=10_000)


def test_columns_are_standardised_by_the_training_months():
    hours = np.random.default_rng(0).normal(3, 2, (HOURS, 7))
    scaled = forecasting.standardize(hours).astype(float)
    np.testing.assert_allclose(scaled[:TRAIN_HOURS].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:TRAIN_HOURS].std(axis=0), 1, atol=1e-6)
    other = forecasting.standardize(np.concatenate([hours[:TRAIN_HOURS], hours[TRAIN_HOURS:] + 9]))
    np.testing.assert_array_equal(scaled[:TRAIN_HOURS], other[:TRAIN_HOURS])


SHORT = {"train": (0, 600), "validation": (600, 1000), "test": (1000, 1400)}


@pytest.mark.slow
def test_naive_baselines_are_exact_for_their_own_models(monkeypatch):
    monkeypatch.setattr(forecasting, "BORDERS", SHORT)
    hours = np.arange(1400.0)[:, None] * np.ones(7)

    def of(series):
        return forecasting.baselines(series, 96, 24)

    flat, line, daily = of(0 * hours + 4), of(hours / 100), of(np.sin(hours * 2 * np.pi / 24))
    assert flat["persistence"] == {"mse": 0, "mae": 0}
    assert daily["seasonal naive (24 hours)"]["mse"] < 1e-20
    assert daily["persistence"]["mse"] > 0.5
    assert line["persistence"]["mae"] == pytest.approx(np.arange(1, 25).mean() / 100)
    assert line["seasonal naive (24 hours)"]["mae"] == pytest.approx(0.24)
    for metrics in (line, daily):
        for model in ("NLinear", "DLinear"):
            for look_back in (96, 336):
                assert metrics[f"{model}, {look_back} hours"]["mse"] < 1e-4


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_longer_window_has_the_same_targets(split):
    hours = np.random.default_rng(0).normal(size=(HOURS, 7)).astype(np.float32)
    short, long = (forecasting.windows_of(hours, split, window, 24) for window in (96, 336))
    np.testing.assert_array_equal(short.targets, long.targets)
    np.testing.assert_array_equal(short.inputs, long.inputs[:, -96:])
    begin, end = forecasting.BORDERS[split]
    np.testing.assert_array_equal(short.targets[0], hours[begin : begin + 24])
    np.testing.assert_array_equal(short.targets[-1], hours[end - 24 : end])


@pytest.fixture(scope="module")
def random_windows():
    """Training and validation windows with random targets, and random inputs."""
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(150, 40, 7)), random.normal(size=(150, 5, 7))
    windows = Windows(inputs.astype(np.float32), targets.astype(np.float32))
    return Windows(*(part[:100] for part in windows)), Windows(*(part[100:] for part in windows))


FEATURES = [forecasting.nlinear_features, forecasting.dlinear_features]


@pytest.mark.parametrize("features_of", FEATURES)
def test_linear_baselines_are_ridge_regressions(random_windows, features_of):
    train, validation = random_windows
    flat = [part.swapaxes(1, 2).reshape(-1, part.shape[1]) for part in (*train, *validation)]
    (features, level), (unseen, unseen_level) = features_of(flat[0]), features_of(flat[2])
    errors, forecasts = [], []
    for penalty in forecasting.PENALTIES:
        ridge = Ridge(alpha=penalty * len(features)).fit(features, flat[1] - level)
        forecasts.append(ridge.predict(unseen) + unseen_level)
        errors.append(np.square(forecasts[-1] - flat[3]).mean())
    expected = forecasts[int(np.argmin(errors))].reshape(50, 7, 5).swapaxes(1, 2)
    found = forecasting.fit_linear(features_of, train, validation)(validation.inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("features_of", FEATURES)
def test_linear_baselines_find_a_linear_map(random_windows, features_of, monkeypatch):
    monkeypatch.setattr(forecasting, "PENALTIES", (1e-8,))
    (inputs, _), (unseen, _) = random_windows
    weights = np.random.default_rng(1).normal(size=(5, 40))

    def forecast(inputs):
        last = inputs[:, -1:]
        return np.einsum("ht,btc->bhc", weights, inputs - last) + last + 0.3

    train = Windows(inputs, forecast(inputs))
    linear = forecasting.fit_linear(features_of, train, Windows(unseen, forecast(unseen)))
    np.testing.assert_allclose(linear(unseen), forecast(unseen), atol=1e-2)


def test_nlinear_forecasts_move_with_the_level(random_windows):
    linear = forecasting.fit_linear(forecasting.nlinear_features, *random_windows)
    inputs = random_windows[1].inputs
    np.testing.assert_allclose(linear(inputs + 5), linear(inputs) + 5, atol=1e-4)


def test_dlinear_splits_a_window_into_its_moving_average_and_the_remainder():
    windows = np.random.default_rng(0).normal(size=(3, 60))
    features, level = forecasting.dlinear_features(windows)
    trend, remainder = np.split(features, 2, axis=1)
    np.testing.assert_allclose(trend + remainder, windows)
    np.testing.assert_allclose(
        trend[:, 12:-12], [np.convolve(row, np.full(25, 1 / 25), "valid") for row in windows]
    )
    first = (12 * windows[:, 0] + windows[:, :13].sum(axis=1)) / 25
    np.testing.assert_allclose(trend[:, 0], first)
    np.testing.assert_array_equal(level, 0)


@pytest.mark.parametrize("columns", ["together", slow("apart")])
def test_a_network_of_zeros_forecasts_the_last_hour(counted, tmp_path, monkeypatch, columns):
    monkeypatch.setattr(forecasting, "LOOK_BACKS", ())
    hours = np.sin(counted / 50)
    task = build(hours, tmp_path, monkeypatch, columns=columns, window=24, horizon=5)
    silent = jax.tree.map(np.zeros_like, task.params)
    metrics, expected = task.evaluate(silent, "test"), task.evaluate_baselines()["persistence"]
    assert metrics == pytest.approx(expected, rel=1e-4)


def test_a_file_of_your_own_replaces_the_published_one(counted, tmp_path, monkeypatch):
    own = tmp_path / "own.csv"
    own.write_bytes(table(counted[::-1]))
    task = build(counted, tmp_path, monkeypatch, data_file=str(own))
    other = build(counted[::-1], tmp_path, monkeypatch)
    np.testing.assert_array_equal(task.batch_at(0).inputs, other.batch_at(0).inputs)


ROW = "{},1,2,3,4,5,6,7"
TIMES = [f"2016-07-01 0{hour}:00:00" for hour in range(6)]


def rows_of(times):
    return "\n".join([HEADER, *map(ROW.format, times)]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable table"),
        (b"\xff\xfe", "is not a readable table"),
        (b"date,a,b\n1,2,3", "has no column HUFL and no column HULL and"),
        (HEADER.replace("MULL,", "").encode(), "has no column MULL; its columns are"),
        (HEADER.replace("date", "time").encode(), "has no column date; its columns are"),
        ((HEADER + ",MORE").encode(), "has the columns"),
        (HEADER.replace("HUFL,HULL", "HULL,HUFL").encode(), "has the columns"),
        (table(np.zeros((5, 7))), "has 5 hours, but should have 14400 or more"),
        (rows_of(TIMES) + b"\n6,1,1", "line 8 has 3 values, but should have 8"),
        (rows_of(TIMES) + b"\n", "has 6 hours"),
        (rows_of(TIMES) + b"\n\n", "line 8 has 0 values"),
        (rows_of(["now"]), "line 2: date is 'now', but should be a time like"),
        (rows_of(TIMES).replace(b"5", b"x", 1), "line 2: LUFL is 'x', but should be a finite"),
        (rows_of(TIMES).replace(b",7\n", b",\n", 1), "line 2: OT is '', but should be a finite"),
        (rows_of(TIMES).replace(b",1,", b",nan,"), "line 2: HUFL is 'nan', but"),
        (rows_of(TIMES).replace(b",1,", b",-inf,"), "line 2: HUFL is '-inf', but"),
        (rows_of(TIMES[:3] + TIMES[4:]), "line 5 is of 2016-07-01 04:00:00, 2 hours after"),
        (rows_of(TIMES[:3] + TIMES[2:]), "line 5 is of 2016-07-01 02:00:00, the same hour as"),
        (table(np.zeros((HOURS, 7))), "HUFL is the same in every hour of the training"),
        (rows_of([TIMES[1], TIMES[0]]), "line 3 is of 2016-07-01 00:00:00, earlier than"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "ETTh1.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        forecasting.read_hours(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv is not a readable table: .*No such file"):
        forecasting.read_hours(tmp_path / "none.csv")


def test_the_published_hours(published_data):
    hours = forecasting.read_hours(registry.locate(registry.ETTH1, published_data))
    assert hours.shape == (17_420, 7)


@pytest.mark.slow
def test_baselines_of_the_published_hours(published_data):
    hours = forecasting.read_hours(registry.locate(registry.ETTH1, published_data))
    metrics = forecasting.baselines(forecasting.standardize(hours), 96, 96)
    # Zeng et al. 2023, arXiv 2205.13504, table 2; theirs are trained, not fitted in closed form.
    assert metrics["persistence"]["mse"] == pytest.approx(1.295, abs=1e-3)
    assert metrics["persistence"]["mae"] == pytest.approx(0.713, abs=1e-3)
    assert metrics["NLinear, 336 hours"]["mse"] == pytest.approx(0.374, abs=5e-3)
    assert metrics["DLinear, 336 hours"]["mse"] == pytest.approx(0.375, abs=6e-3)
