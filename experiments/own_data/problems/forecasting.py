"""Forecasting: the next steps of one or many series, with what is known ahead."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from experiments import plots
from experiments.batches import shuffled_batches
from experiments.errors import UserError
from experiments.export_spec import ExportSpec, make_export_spec
from experiments.models.recurrent import Network, build_network
from experiments.own_data.batch import Batch, number_of_targets
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding, fit_encoding
from experiments.own_data.forecasts import baselines
from experiments.own_data.forecasts.horizons import future_times, last_window
from experiments.own_data.forecasts.serving import Forecast
from experiments.own_data.forecasts.windows import MOST_WINDOWS, Windows, make_windows
from experiments.own_data.metrics import metric_labels, number_metrics, plain
from experiments.own_data.model import Model, Predictions
from experiments.own_data.splits import Part, split_dataset
from experiments.task import DataRecord, Task
from experiments.typing import Array, Metrics, Params, Split

EVAL_BATCH = 512
PLOTTED = 2


class Record(BaseModel, frozen=True):
    """What a run stores of its data: the encoding and the linear map below the network."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    encoding: Encoding
    weights: list[list[float]]
    bias: list[float]


def build(config: SequencesConfig, dataset: Dataset, /) -> Task:
    """Binds a config to its data.

    Raises:
        UserError: a part has no window with targets, or the window is too short for what is known
            ahead.
    """
    _check(config)
    splits = split_dataset(dataset, config.data)
    encoding = fit_encoding(dataset, splits, config.data)
    windows = make_windows(config, dataset, splits, encoding)
    _check_targets(config, windows)
    pre_post = _fit(config, windows, encoding)
    network = _network(config, pre_post)
    names = tuple(config.data.target)
    batches = shuffled_batches(
        config.seed, len(windows.starts["train"]), config.training.batch_size
    )

    @jax.jit
    def predict(params: Params, inputs: Array) -> jax.Array:
        return _predict(network, pre_post, params, inputs, None)

    def loss(
        params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        forecasts = _predict(network, pre_post, params, batch.inputs, key)
        is_given = ~jnp.isnan(batch.targets)
        missed = jnp.where(is_given, forecasts - jnp.where(is_given, batch.targets, 0), 0)
        squares = jnp.square(missed / jnp.asarray(batch.deviation)[:, None])
        return squares.sum() / number_of_targets(batch).astype(squares.dtype), {}

    def forecasts(params: Params, part: Part, chosen: np.ndarray) -> np.ndarray:
        found = [
            np.asarray(predict(params, windows.gather(part, some).inputs))
            for some in _pieces(chosen)
        ]
        return np.concatenate(found)

    def evaluate(params: Params, split: Split) -> Metrics:
        chosen = windows.every(split, MOST_WINDOWS[split])
        batch = windows.gather(split, chosen)
        return number_metrics(forecasts(params, split, chosen), batch.targets, batch.deviation)

    def plot(params: Params, directory: Path) -> None:
        chosen = windows.every("test", 3)
        batch = windows.gather("test", chosen)
        network_off = np.zeros((len(chosen), config.horizon * len(names)), np.float32)
        linear = pre_post.after(jnp.asarray(batch.inputs), jnp.asarray(network_off))
        plots.forecasts(
            batch._replace(inputs=np.asarray(batch.inputs)[:, : config.window]),
            {
                config.model.cell.upper(): forecasts(params, "test", chosen),
                "linear map": np.asarray(linear),
            },
            [(plain(name), place) for place, name in enumerate(names[:PLOTTED])],
            f"{config.horizon} steps ahead: {len(chosen)} test windows",
            directory / "forecasts.png",
            steps="steps",
            unit="",
        )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=lambda step: windows.gather("train", batches(step)),
        evaluate=evaluate,
        metric_labels=metric_labels(names),
        loss_metric="scaled_mse",
        monitor="scaled_mse",
        baselines=lambda: _baselines(config, windows, pre_post),
        plot=plot,
        batch_weight=number_of_targets,
        export_spec=_export_spec(network, pre_post),
        data=DataRecord(
            (*dataset.notes, splits.sentence, _sentence(config, windows)),
            {
                "encoding": encoding.to_json(),
                "weights": pre_post.weights.tolist(),
                "bias": pre_post.bias.tolist(),
            },
        ),
    )


def restore(config: SequencesConfig, record: Mapping[str, Any], where: str, /) -> Model:
    """Returns the model that `build` made, from its record.

    Raises:
        UserError: the record is corrupted.
    """
    _check(config)
    try:
        stored = Record.model_validate(record)
        weights, bias = np.array(stored.weights, np.float32), np.array(stored.bias, np.float32)
        names = [feature.name for feature in stored.encoding.features]
        if weights.shape != (config.window, config.horizon) or bias.shape != weights.shape[1:]:
            raise ValueError(f"weights have shape {weights.shape}, and bias {bias.shape}")
        if names[: len(config.data.target)] != config.data.target:
            raise ValueError(f"the first features are {names[: len(config.data.target)]}")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where} is corrupted: {key}: {first['msg']}.") from None
    except ValueError as error:
        raise UserError(f"{where} is corrupted: {error}.") from None
    pre_post = Forecast(
        stored.encoding, config.window, config.horizon, len(config.data.target), weights, bias
    )
    network = _network(config, pre_post)

    @jax.jit
    def run(params: Params, inputs: Array) -> jax.Array:
        return _predict(network, pre_post, params, inputs, None)

    def predict(params: Params, dataset: Dataset) -> Predictions:
        aligned = stored.encoding.align(dataset)
        order, inputs = last_window(config, dataset, aligned, len(pre_post.ahead) > 0)
        found = np.concatenate([np.asarray(run(params, inputs[each])) for each in _pieces(order)])
        columns = {name: tuple(found[..., place]) for place, name in enumerate(config.data.target)}
        times = future_times(config, dataset)
        return Predictions(columns, "each step of the horizon", times)

    return Model(
        params=network.params,
        predict=predict,
        export_spec=_export_spec(network, pre_post),
        batch_weight=number_of_targets,
    )


def _check(config: SequencesConfig) -> None:
    if config.data.known_ahead and config.horizon > config.window:
        raise UserError(
            f"horizon is {config.horizon}, but should be at most window, {config.window}: with "
            "data.known_ahead, each step of the window reads what is known a horizon later."
        )


def _check_targets(config: SequencesConfig, windows: Windows) -> None:
    """Raises UserError for a target that is constant or missing in the training part."""
    train = windows.gather("train", windows.every("train", MOST_WINDOWS["test"])).targets
    for place, name in enumerate(config.data.target):
        values = np.asarray(train)[..., place]
        values = values[np.isfinite(values)]
        if not len(values) or values.min() == values.max():
            what = f"{values[0]:g} everywhere" if len(values) else "missing everywhere"
            raise UserError(
                f"{config.data.path}: {name} is {what} in the training part, but a target should "
                "vary."
            )


def _fit(config: SequencesConfig, windows: Windows, encoding: Encoding) -> Forecast:
    shape = (config.window, config.horizon)
    empty = Forecast(
        encoding,
        config.window,
        config.horizon,
        windows.num_targets,
        np.zeros(shape, np.float32),
        np.zeros(shape[1:], np.float32),
    )
    weights, bias = baselines.fit_linear(
        windows,
        empty.constant("mean"),
        empty.constant("deviation"),
        of_windows=encoding.scale == "sequence",
    )
    return Forecast(encoding, config.window, config.horizon, windows.num_targets, weights, bias)


def _network(config: SequencesConfig, pre_post: Forecast) -> Network:
    width, embeddings = pre_post.width, pre_post.embeddings
    outputs = config.horizon * pre_post.num_targets
    return build_network(
        config.model, width, outputs, readout="last step", seed=config.seed, embeddings=embeddings
    )


def _predict(
    network: Network, pre_post: Forecast, params: Params, inputs: Array, key: jax.Array | None
) -> jax.Array:
    inputs = jnp.asarray(inputs)
    return pre_post.after(inputs, network.apply(params, pre_post.before(inputs), key=key))


def _export_spec(network: Network, pre_post: Forecast) -> ExportSpec:
    return make_export_spec(
        network,
        pre_post,
        ("batch", pre_post.steps, len(pre_post.encoding.features)),
        ("batch", pre_post.horizon, pre_post.num_targets),
    )


def _pieces(chosen: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(chosen), EVAL_BATCH):
        yield chosen[first : first + EVAL_BATCH]


def _baselines(config: SequencesConfig, windows: Windows, pre_post: Forecast) -> dict[str, Metrics]:
    chosen = windows.every("test", MOST_WINDOWS["test"])
    batch = windows.gather("test", chosen)
    last = baselines.last_values(
        np.asarray(batch.inputs), windows.num_targets, config.window, pre_post.constant("mean")
    )
    off = np.zeros((len(chosen), config.horizon * windows.num_targets), np.float32)
    linear = pre_post.after(jnp.asarray(batch.inputs), jnp.asarray(off))
    found = {"last value": last}
    if config.season is not None:
        found[f"seasonal naive ({config.season} steps)"] = baselines.seasonal_naive(
            windows, "test", chosen, config.season, last
        )
    found[f"linear map of {config.window} steps"] = np.asarray(linear)
    return {
        name: number_metrics(each, batch.targets, batch.deviation) for name, each in found.items()
    }


def _sentence(config: SequencesConfig, windows: Windows) -> str:
    counts = ", ".join(f"{len(windows.starts[part]):,}" for part in windows.starts)
    return (
        f"Windows of {config.window} steps forecast the next {config.horizon} of "
        f"{', '.join(config.data.target)}: {counts} windows."
    )
