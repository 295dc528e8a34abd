"""Forecasting of an electricity transformer's hourly loads and oil temperature."""

import csv
import itertools
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import plots
from experiments.batches import shuffled_batches
from experiments.datasets import registry
from experiments.errors import UserError
from experiments.evaluation import over_devices
from experiments.export_spec import DifferenceForecast, make_export_spec
from experiments.models.recurrent import build_network
from experiments.task import Task
from experiments.tasks.configs import DAY
from experiments.tasks.configs import ForecastingConfig as Config
from experiments.typing import Array, Metrics, Params, Split
from gru_jax import training

TIME = "date"
COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MONTH = 30 * DAY
# Training, validation and test: 12, 4 and 4 months (Zhou et al. 2021, arXiv 2012.07436).
BORDERS = {
    "train": (0, 12 * MONTH),
    "validation": (12 * MONTH, 16 * MONTH),
    "test": (16 * MONTH, 20 * MONTH),
}
TRAIN_HOURS, HOURS = BORDERS["train"][1], BORDERS["test"][1]
EVAL_BATCH = 256
PLOTTED_COLUMNS = ("HUFL", "OT")
# Of the linear baselines: hours of input in addition to the network's, hours of the moving average,
# and candidates of the ridge penalty, per window.
LOOK_BACKS = (96, 336)
AVERAGE = 25
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


FeaturesOf = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Windows(NamedTuple):
    """Standardised inputs (N, window, 7) and targets (N, horizon, 7)."""

    inputs: Array
    targets: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to ETTh1 in `data_dir`.

    Raises:
        UserError: the file is absent or corrupted, or has fewer hours than a window and a horizon.
    """
    path = registry.data_path(config.data_file, "etth1", data_dir)
    hours = standardize(read_hours(path))
    splits = {split: windows_of(hours, split, config.window, config.horizon) for split in BORDERS}
    count = {split: len(of_split.targets) for split, of_split in splits.items()}
    features = len(COLUMNS) if config.columns == "together" else 1
    network = build_network(
        config.model,
        config.segment * features,
        config.horizon * features,
        readout="last step",
        seed=config.seed,
    )
    pre_post = DifferenceForecast(
        config.window,
        config.horizon,
        len(COLUMNS),
        config.segment,
        joint_columns=config.columns == "together",
    )
    batches = shuffled_batches(config.seed, count["train"], config.training.batch_size)

    def windows(split: str, chosen: np.ndarray) -> Windows:
        return Windows(splits[split].inputs[chosen], splits[split].targets[chosen])

    def predict(params: Params, inputs: Array, key: jax.Array | None = None) -> jax.Array:
        # Forecasting the difference from the last hour makes the model invariant to drift.
        inputs = jnp.asarray(inputs)
        return pre_post.after(inputs, network.apply(params, pre_post.before(inputs), key=key))

    def loss(
        params: Params, batch: Windows, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.mean(jnp.square(predict(params, batch.inputs, key) - batch.targets)), {}

    @jax.jit
    def errors(params: Params, batch: Windows) -> tuple[dict[str, jax.Array], int]:
        missed = predict(params, batch.inputs) - batch.targets
        means = {"mse": jnp.mean(jnp.square(missed)), "mae": jnp.mean(jnp.abs(missed))}
        count = len(batch.inputs)
        return {name: count * mean for name, mean in means.items()}, count

    def batches_of(split: str) -> Iterator[Windows]:
        for first in range(0, count[split], EVAL_BATCH):
            last = min(first + EVAL_BATCH, count[split])
            yield windows(split, np.arange(first, last))

    def evaluate(params: Params, split: Split) -> Metrics:
        batches = over_devices(params, batches_of(split))
        return training.mean_metrics(errors, params, batches)

    def plot(params: Params, directory: Path) -> None:
        # Three evenly spaced test windows.
        chosen = windows("test", np.arange(3) * (count["test"] // 3))
        linear = fit_linear(nlinear_features, splits["train"], splits["validation"])
        plots.forecasts(
            chosen,
            {
                config.model.cell.upper(): np.asarray(jax.jit(predict)(params, chosen.inputs)),
                "NLinear": linear(chosen.inputs),
            },
            [(name, COLUMNS.index(name)) for name in PLOTTED_COLUMNS],
            f"{path.stem}, {config.horizon} hours ahead: three test windows",
            directory / "forecasts.png",
        )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=lambda step: windows("train", batches(step)),
        evaluate=evaluate,
        metric_labels={
            "mse": "mean squared error (standardised)",
            "mae": "mean absolute error (standardised)",
        },
        loss_metric="mse",
        monitor="mse",
        baselines=lambda: baselines(hours, config.window, config.horizon),
        plot=plot,
        export_spec=make_export_spec(
            network,
            pre_post,
            ("batch", config.window, len(COLUMNS)),
            ("batch", config.horizon, len(COLUMNS)),
        ),
    )


def read_hours(path: Path) -> np.ndarray:
    """Reads the file: (hours, 7), float64.

    Raises:
        UserError: an invalid file, or missing, repeated or unsorted hours; names the line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}.") from None
    _check_columns(path, header)
    # The header is line 1.
    parsed = [_parse_row(row, f"{path}, line {line}") for line, row in enumerate(rows, 2)]
    _check_times(path, [time for time, _ in parsed])
    if len(parsed) < HOURS:
        raise UserError(
            f"{path} has {len(parsed)} hours, but should have {HOURS} or more: "
            "12 months for training, 4 for validation and 4 for the test."
        )
    hours = np.array([values for _, values in parsed])
    spans = np.ptp(hours[:TRAIN_HOURS], axis=0)
    if not spans.all():
        raise UserError(
            f"{path}: {COLUMNS[int(spans.argmin())]} is the same in every hour of the "
            "training months, but should vary: each column is divided by its standard deviation."
        )
    return hours


def _check_columns(path: Path, header: list[str]) -> None:
    expected = [TIME, *COLUMNS]
    missing = [name for name in expected if name not in header]
    if missing:
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}; its columns are {header}, "
            f"but should be {expected}."
        )
    if header != expected:
        raise UserError(f"{path} has the columns {header}, but should have {expected}.")


def _parse_row(row: list[str], where: str) -> tuple[datetime, list[float]]:
    if len(row) != 1 + len(COLUMNS):
        raise UserError(f"{where} has {len(row)} values, but should have {1 + len(COLUMNS)}.")
    try:
        time = datetime.strptime(row[0], "%Y-%m-%d %H:%M:%S")
    except ValueError:
        raise UserError(
            f"{where}: {TIME} is {row[0]!r}, but should be a time like 2016-07-01 00:00:00."
        ) from None
    values = [_number(text) for text in row[1:]]
    for name, text, value in zip(COLUMNS, row[1:], values, strict=True):
        if not math.isfinite(value):
            raise UserError(f"{where}: {name} is {text!r}, but should be a finite number.")
    return time, values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_times(path: Path, times: list[datetime]) -> None:
    for line, (before, time) in enumerate(itertools.pairwise(times), 3):
        if time - before == timedelta(hours=1):
            continue
        if time == before:
            error = "the same hour as the line before it"
        elif time < before:
            error = f"earlier than the line before it, {before}"
        else:
            error = f"{(time - before) / timedelta(hours=1):g} hours after the line before it"
        raise UserError(
            f"{path}, line {line} is of {time}, {error}; every line should be one hour after the "
            "line before it."
        )


def standardize(hours: np.ndarray) -> np.ndarray:
    """Standardises each column by its statistics in the training months; returns float32."""
    train = hours[:TRAIN_HOURS]
    return ((hours - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)


def windows_of(hours: np.ndarray, split: str, window: int, horizon: int) -> Windows:
    """Returns all windows of a split, as read-only views of the hours.

    Targets do not cross the borders of a split. Inputs of validation and test begin up to `window`
    hours before the border, so that the targets are the same for every window.
    """
    begin, end = BORDERS[split]
    hours = hours[max(0, begin - window) : end]
    if len(hours) < window + horizon:
        raise UserError(
            f"window is {window} and horizon is {horizon}, but the {split} split has {len(hours)} "
            "hours for both."
        )
    views = np.lib.stride_tricks.sliding_window_view(hours, window + horizon, axis=0).swapaxes(1, 2)
    return Windows(views[:, :window], views[:, window:])


def baselines(hours: np.ndarray, window: int, horizon: int) -> dict[str, Metrics]:
    """Returns the test metrics of forecasts that need no network.

    NLinear and DLinear (Zeng et al. 2023, arXiv 2205.13504) are linear maps shared by all columns.
    The paper trains them with Adam. Here they are fitted in closed form to the training split, with
    the ridge penalty of the least validation error. They read the network's window, 96 or 336 hours
    before the same targets.

    Args:
        hours: standardised hours, (hours, 7).
        window: hours of the network's input.
        horizon: hours of the forecast.
    """
    inputs, targets = windows_of(hours, "test", window, horizon)
    metrics = {
        "persistence": _errors(inputs[:, -1:] - targets),
        "seasonal naive (24 hours)": _errors(inputs[:, -DAY + np.arange(horizon) % DAY] - targets),
    }
    for look_back in sorted({window, *LOOK_BACKS}):
        train, validation, test = (
            windows_of(hours, split, look_back, horizon) for split in BORDERS
        )
        for name, features in (("NLinear", nlinear_features), ("DLinear", dlinear_features)):
            linear = fit_linear(features, train, validation)
            metrics[f"{name}, {look_back} hours"] = _errors(linear(test.inputs) - test.targets)
    return metrics


def nlinear_features(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits windows (N, hours) into features, minus the last hour, and that hour, (N, 1).

    The last hour is the level that NLinear subtracts from its inputs and adds to its forecasts.
    """
    level = windows[:, -1:]
    return (windows - level)[:, :-1], level


def dlinear_features(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits windows (N, hours) into features (N, 2 * hours) and a level of zero, (N, 1).

    The features are DLinear's trend, a moving average with the ends repeated, and the remainder.
    Both are linear in the window. Without a penalty, DLinear would be a single linear map of the
    window; with a ridge penalty, the decomposition affects which of the two parts is shrunk.
    """
    ends = (AVERAGE - 1) // 2
    padded = np.pad(windows, [(0, 0), (ends, ends)], mode="edge")
    trend = np.lib.stride_tricks.sliding_window_view(padded, AVERAGE, axis=1).mean(axis=-1)
    return np.concatenate([trend, windows - trend], axis=1), np.zeros_like(windows[:, :1])


def fit_linear(
    features_of: FeaturesOf, train: Windows, validation: Windows
) -> Callable[[Array], np.ndarray]:
    """Fits a ridge regression from features of a column's window to the column's next hours.

    Args:
        features_of: windows (N, hours) -> features (N, F), and the level (N, 1) that is subtracted
            from the targets and added to the forecasts.
        train: windows to fit to.
        validation: windows whose squared error selects the penalty among `PENALTIES`.

    Returns:
        The forecaster: inputs (N, window, columns) -> forecasts (N, horizon, columns).
    """
    features, level = features_of(_flatten(train.inputs))
    targets = _flatten(train.targets) - level
    centre, offset = features.mean(axis=0), targets.mean(axis=0)
    features = (features - centre).astype(np.float64)
    gram, moment = features.T @ features, features.T @ (targets - offset)

    def fit(penalty: float) -> Callable[[Array], np.ndarray]:
        # The constant is not penalised.
        ridge = penalty * len(features) * np.eye(len(gram))
        weights = np.linalg.solve(gram + ridge, moment).astype(np.float32)

        def forecast(inputs: Array) -> np.ndarray:
            features, level = features_of(_flatten(inputs))
            forecasts = (features - centre) @ weights + offset + level
            return forecasts.reshape(len(inputs), inputs.shape[2], -1).swapaxes(1, 2)

        return forecast

    return min(
        map(fit, PENALTIES),
        key=lambda forecast: _errors(forecast(validation.inputs) - validation.targets)["mse"],
    )


def _flatten(hours: Array) -> np.ndarray:
    """Reshapes windows (N, hours, columns) to (N * columns, hours)."""
    return np.asarray(hours).swapaxes(1, 2).reshape(-1, hours.shape[1])


def _errors(missed: Array) -> Metrics:
    return {"mse": float(np.mean(np.square(missed))), "mae": float(np.mean(np.abs(missed)))}
