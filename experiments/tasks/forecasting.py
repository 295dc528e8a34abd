"""Forecasting: an electricity transformer's loads and temperature, hourly, for the next hours."""

import csv
import itertools
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.datasets import registry as data
from experiments.errors import UserError
from experiments.export_spec import Changes, serving
from experiments.models.recurrent import build_network
from experiments.task import Array, Figures, Params, Split, Task
from gru_jax import training

TIME = "date"
COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MONTH, DAY = 30 * 24, 24
# Training, validation and test: 12, 4 and 4 months (Zhou et al. 2021, arXiv 2012.07436).
BORDERS = (0, 12 * MONTH, 16 * MONTH, 20 * MONTH)
EVALUATED_AT_ONCE = 256
SHOWN = ("HUFL", "OT")


class Config(ExperimentConfig, frozen=True):
    """Forecasts all seven columns of ETTh1, or of a file like it, from the hours before."""

    task: Literal["forecasting"] = "forecasting"
    data_file: str | None = Field(
        default=None,
        description="A .csv file of hours in their place, with the same columns: the time, date, "
        "as 2016-07-01 00:00:00, and HUFL, HULL, MUFL, MULL, LUFL, LULL and OT.",
    )
    window: int = Field(default=96, ge=DAY, description="Hours that are read.")
    horizon: int = Field(default=24, ge=1, description="Hours that are forecast.")
    columns: Literal["together", "apart"] = Field(
        default="apart",
        description="Whether the network reads all columns at once, or each by itself.",
    )
    segment: int = Field(
        default=1,
        ge=1,
        description="Hours that are read in one step (Lin et al. 2023, arXiv 2308.11200).",
    )

    @model_validator(mode="after")
    def check_segment(self) -> Self:
        """Refuses segments that do not fill the window."""
        if self.window % self.segment:
            raise ValueError(
                f"segment is {self.segment}, but should divide window, which is {self.window}."
            )
        return self


class Windows(NamedTuple):
    """Hours read (N, window, 7) and the hours after them (N, horizon, 7), standardised."""

    read: Array
    after: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to ETTh1 in `data_dir`.

    Raises:
        UserError: if the file is absent or damaged.
    """
    if config.data_file is None:
        path = data.locate(data.DATA_SETS["etth1"].file, data_dir)
    else:
        path = Path(config.data_file)
    hours = standardised(read_hours(path))
    series: dict[str, np.ndarray] = {
        split: hours[max(0, begin - config.window) : end]
        for split, begin, end in zip(
            ("train", "validation", "test"), BORDERS[:-1], BORDERS[1:], strict=True
        )
    }
    count = {name: len(part) - config.window - config.horizon + 1 for name, part in series.items()}
    features = len(COLUMNS) if config.columns == "together" else 1
    network = build_network(
        config.model,
        config.segment * features,
        config.horizon * features,
        readout="last step",
        seed=config.seed,
    )
    ends = Changes(
        config.window,
        config.horizon,
        len(COLUMNS),
        config.segment,
        together=config.columns == "together",
    )
    batches = training.ShuffledIndices(config.seed, count["train"], config.training.batch_size)

    def windows(split: str, first: np.ndarray) -> Windows:
        at = first[:, None] + np.arange(config.window + config.horizon)
        whole = series[split][at]
        return Windows(whole[:, : config.window], whole[:, config.window :])

    def predict(params: Params, read: Array, key: jax.Array | None = None) -> jax.Array:
        # Forecast is the change from the last hour, which keeps up with a level that drifts.
        read = jnp.asarray(read)
        return ends.after(read, network.apply(params, ends.before(read), key=key))

    def loss(
        params: Params, batch: Windows, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.mean(jnp.square(predict(params, batch.read, key) - batch.after)), {}

    @jax.jit
    def errors(params: Params, batch: Windows) -> tuple[dict[str, jax.Array], int]:
        missed = predict(params, batch.read) - batch.after
        means = {"mse": jnp.mean(jnp.square(missed)), "mae": jnp.mean(jnp.abs(missed))}
        number = len(batch.read)
        return {name: number * mean for name, mean in means.items()}, number

    def all_windows(split: str) -> Iterator[Windows]:
        for first in range(0, count[split], EVALUATED_AT_ONCE):
            last = min(first + EVALUATED_AT_ONCE, count[split])
            yield windows(split, np.arange(first, last))

    def figures(params: Params, split: Split) -> Figures:
        return training.mean_metrics(errors, params, all_windows(split))

    def every(split: str) -> Windows:
        return windows(split, np.arange(count[split]))

    def draw(params: Params, directory: Path) -> None:
        # Three test windows, a third of the way apart.
        chosen = windows("test", np.arange(3) * (count["test"] // 3))
        linear = fit_linear(every("train"))
        plots.forecasts(
            chosen,
            {
                config.model.cell.upper(): np.asarray(jax.jit(predict)(params, chosen.read)),
                "linear map": linear(np.asarray(chosen.read)),
            },
            [(name, COLUMNS.index(name)) for name in SHOWN],
            f"{path.stem}, {config.horizon} hours ahead: three test windows",
            directory / "forecasts.png",
        )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=lambda step: windows("train", batches(step)),
        figures=figures,
        labels={
            "mse": "mean squared error (standardised)",
            "mae": "mean absolute error (standardised)",
        },
        loss_figure="mse",
        monitor="mse",
        mode="min",
        baselines=lambda: baselines(every("train"), every("test")),
        draw=draw,
        serving=serving(
            network,
            ends,
            ("batch", config.window, len(COLUMNS)),
            ("batch", config.horizon, len(COLUMNS)),
        ),
    )


def read_hours(path: Path) -> np.ndarray:
    """Reads the file: (hours, 7), float64.

    Raises:
        UserError: if it is not such a file, or an hour is missing, stands twice or in disorder;
            names the line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}.") from None
    _check_columns(path, header)
    # The header is line 1.
    read = [_read_row(row, f"{path}, line {line}") for line, row in enumerate(rows, 2)]
    _check_times(path, [time for time, _ in read])
    if len(read) < BORDERS[-1]:
        raise UserError(
            f"{path} has {len(read)} hours, but should have {BORDERS[-1]} or more: "
            "12 months for training, 4 for validation and 4 for the test."
        )
    hours = np.array([values for _, values in read])
    spans = np.ptp(hours[BORDERS[0] : BORDERS[1]], axis=0)
    if not spans.all():
        raise UserError(
            f"{path}: {COLUMNS[int(spans.argmin())]} is the same in every hour of the "
            "training months, but should vary: each column is divided by its deviation."
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


def _read_row(row: list[str], where: str) -> tuple[datetime, list[float]]:
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
            fault = "the same hour as the line before it"
        elif time < before:
            fault = f"earlier than the line before it, {before}"
        else:
            fault = f"{(time - before) / timedelta(hours=1):g} hours after the line before it"
        raise UserError(
            f"{path}, line {line} is of {time}, {fault}; every line should be an hour after the "
            "one before it."
        )


def standardised(hours: np.ndarray) -> np.ndarray:
    """Each column less its mean over its deviation, both of the training months; float32."""
    train = hours[BORDERS[0] : BORDERS[1]]
    return ((hours - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)


def baselines(train: Windows, test: Windows) -> dict[str, Figures]:
    """Returns the test figures of three forecasts that need no network."""
    read, after = np.asarray(test.read), np.asarray(test.after)
    horizon = after.shape[1]
    yesterday = read[:, -DAY + np.arange(horizon) % DAY]
    forecasts = {
        "persistence": np.broadcast_to(read[:, -1:], after.shape),
        "seasonal naive (24 hours)": yesterday,
        "linear map": fit_linear(train)(read),
    }
    return {name: _errors(forecast - after) for name, forecast in forecasts.items()}


def fit_linear(train: Windows) -> "partial[np.ndarray]":
    """Least squares from the hours read to those after, less the last hour, for every column alike.

    One of the linear maps of Zeng et al. 2023 (arXiv 2205.13504, "NLinear") but for the intercept,
    fitted in closed form.
    """
    read, after = _alone(np.asarray(train.read)), _alone(np.asarray(train.after))
    last = read[:, -1:]
    inputs = (read - last)[:, :-1]
    # Ridge by a hair: the hours of smooth columns nearly determine each other.
    square = inputs.T @ inputs + 1e-3 * len(inputs) * np.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = np.linalg.solve(square.astype(np.float64), (inputs.T @ (after - last)))
    return partial(_linear, weights.astype(np.float32))


def _linear(weights: np.ndarray, read: np.ndarray) -> np.ndarray:
    alone = _alone(read)
    last = alone[:, -1:]
    forecast = last + (alone - last)[:, :-1] @ weights
    return forecast.reshape(len(read), read.shape[2], -1).swapaxes(1, 2)


def _alone(hours: np.ndarray) -> np.ndarray:
    """Windows (N, hours, columns) as (N * columns, hours)."""
    return hours.swapaxes(1, 2).reshape(-1, hours.shape[1])


def _errors(missed: np.ndarray) -> Figures:
    return {"mse": float(np.mean(np.square(missed))), "mae": float(np.mean(np.abs(missed)))}
