"""Forecasting: an electricity transformer's loads and temperature, hourly, for the next hours."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from experiments import data, plots
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.model import build_network
from experiments.task import Array, Figures, Params, Split, Task
from gru_jax import training

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MONTH, DAY = 30 * 24, 24
# Training, validation and test: 12, 4 and 4 months (Zhou et al. 2021, arXiv 2012.07436).
BORDERS = (0, 12 * MONTH, 16 * MONTH, 20 * MONTH)
EVALUATED_AT_ONCE = 256
SHOWN = ("HUFL", "OT")


class Config(ExperimentConfig, frozen=True):
    """Forecasts all seven columns of ETTh1 from the hours before."""

    task: Literal["forecasting"] = "forecasting"
    window: int = Field(default=96, ge=DAY, description="Hours that are read.")
    horizon: int = Field(default=24, ge=1, description="Hours that are forecast.")
    columns: Literal["together", "apart"] = Field(
        default="apart",
        description="Whether the network reads all columns at once, or each by itself.",
    )


class Windows(NamedTuple):
    """Hours read (N, window, 7) and the hours after them (N, horizon, 7), standardised."""

    read: Array
    after: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to the file in `data_dir`.

    Raises:
        UserError: if the file is absent or damaged.
    """
    hours = standardised(read_hours(data.locate(data.DATA_SETS["etth1"].file, data_dir)))
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
        features,
        config.horizon * features,
        readout="last step",
        seed=config.seed,
    )
    batches = training.Batches(config.seed, count["train"], config.training.batch_size)

    def windows(split: str, first: np.ndarray) -> Windows:
        at = first[:, None] + np.arange(config.window + config.horizon)
        whole = series[split][at]
        return Windows(whole[:, : config.window], whole[:, config.window :])

    def predict(params: Params, read: Array, key: jax.Array | None = None) -> jax.Array:
        read = jnp.asarray(read)
        # Forecast is the change from the last hour, which keeps up with a level that drifts.
        last = read[:, -1:]
        changes = read - last
        if config.columns == "together":
            out = network.apply(params, changes, key=key)
            return last + out.reshape(len(read), config.horizon, len(COLUMNS))
        alone = changes.swapaxes(1, 2).reshape(-1, config.window, 1)
        out = network.apply(params, alone, key=key)
        return last + out.reshape(len(read), len(COLUMNS), config.horizon).swapaxes(1, 2)

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
        return training.evaluate_mean(errors, params, all_windows(split))

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
            f"ETTh1, {config.horizon} hours ahead: three test windows",
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
    )


def read_hours(path: Path) -> np.ndarray:
    """Reads the file: (hours, 7), float64.

    Raises:
        UserError: if it is not such a file.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        values = np.array([row[1:] for row in rows], np.float64)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table of numbers: {error}.") from None
    if tuple(header[1:]) != COLUMNS or values.ndim != 2:
        raise UserError(f"{path} has the columns {header[1:]}, but should have {list(COLUMNS)}.")
    if len(values) < BORDERS[-1] or not np.isfinite(values).all():
        raise UserError(
            f"{path} should hold {BORDERS[-1]} hours or more, each with finite values; "
            f"it has {len(values)}, {np.count_nonzero(~np.isfinite(values))} values are not finite."
        )
    return values


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
