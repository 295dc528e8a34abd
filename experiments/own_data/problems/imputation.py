"""Imputation: numbers that are missing, from what is known before and after them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import plots
from experiments.batches import shuffled_batches
from experiments.errors import UserError
from experiments.export_spec import ExportSpec, make_export_spec
from experiments.models.recurrent import Network, build_network
from experiments.own_data.batch import Batch, number_of_targets
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding, fit_encoding
from experiments.own_data.gaps.serving import FillGaps
from experiments.own_data.gaps.windows import HIDDEN, RUN, Windows, make_windows
from experiments.own_data.metrics import metric_labels, number_metrics, plain
from experiments.own_data.model import Model, Predictions
from experiments.own_data.splits import PARTS, Part, split_dataset
from experiments.task import DataRecord, Task
from experiments.typing import Array, Metrics, Params, Split

EVAL_BATCH = 256
PLOTTED = 2
# Seeds of what is hidden: in training with the seed and the step, otherwise the same in all runs.
TRAIN, EVALUATION = 0, 1


def build(config: SequencesConfig, dataset: Dataset, /) -> Task:
    """Binds a config to its data.

    Raises:
        UserError: no feature is a number, or a part has no window with two numbers.
    """
    splits = split_dataset(dataset, config.data)
    encoding = _with_indicators(fit_encoding(dataset, splits, config.data))
    windows = make_windows(config, dataset, splits, encoding)
    pre_post = _pre_post(config, encoding)
    network = _network(config, pre_post)
    names = tuple(encoding.features[place].name for place in windows.numbers)
    batches = shuffled_batches(
        config.seed, len(windows.starts["train"]), config.training.batch_size
    )
    fill = _make_fill(network, pre_post)

    def batch_at(step: int) -> Batch:
        return windows.gather("train", batches(step), (TRAIN, config.seed, step))

    def loss(
        params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        filled = _fill(network, pre_post, params, batch.inputs, key)
        is_target = ~jnp.isnan(batch.targets)
        missed = jnp.where(is_target, filled - jnp.where(is_target, batch.targets, 0), 0)
        squares = jnp.square(missed / jnp.asarray(batch.deviation)[:, None])
        # A batch may have nothing to hide.
        return squares.sum() / jnp.maximum(number_of_targets(batch), 1).astype(squares.dtype), {}

    def all_of(part: Part) -> Batch:
        every = np.arange(len(windows.starts[part]))
        return windows.gather(part, every, (EVALUATION, PARTS.index(part)))

    def evaluate(params: Params, split: Split) -> Metrics:
        batch = all_of(split)
        filled = fill(params, np.asarray(batch.inputs))
        return number_metrics(filled, batch.targets, batch.deviation)

    def plot(params: Params, directory: Path) -> None:
        batch = all_of("test")
        chosen = np.unique(np.linspace(0, len(batch.inputs) - 1, 3).round().astype(int))
        inputs = np.asarray(batch.inputs)[chosen]
        plots.gaps(
            inputs[..., windows.numbers],
            np.asarray(batch.targets)[chosen],
            {config.model.cell.upper(): fill(params, inputs), "line": _line(pre_post, inputs)},
            [(plain(name), place) for place, name in enumerate(names[:PLOTTED])],
            directory / "gaps.png",
        )

    def baselines() -> dict[str, Metrics]:
        batch = all_of("test")
        inputs = np.asarray(batch.inputs)
        found = {
            "mean": _means(pre_post, inputs),
            "last value": carried_forward(pre_post, inputs),
            "line between neighbours": _line(pre_post, inputs),
        }
        return {
            name: number_metrics(each, batch.targets, batch.deviation)
            for name, each in found.items()
        }

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels=metric_labels(names),
        loss_metric="scaled_mse",
        monitor="scaled_mse",
        baselines=baselines,
        plot=plot,
        batch_weight=number_of_targets,
        export_spec=_export_spec(network, pre_post),
        data=DataRecord(
            (*dataset.notes, splits.sentence, _sentence(windows, names)),
            {"encoding": encoding.to_json()},
        ),
    )


def restore(config: SequencesConfig, record: Mapping[str, Any], where: str, /) -> Model:
    """Returns the model that `build` made, from its record.

    Raises:
        UserError: the record is corrupted.
    """
    encoding = Encoding.from_json(record.get("encoding", {}), where)
    if all(feature.categories is not None for feature in encoding.features):
        raise UserError(f"{where} is corrupted: no feature is a number.")
    pre_post = _pre_post(config, encoding)
    network = _network(config, pre_post)
    fill = _make_fill(network, pre_post)

    def predict(params: Params, dataset: Dataset) -> Predictions:
        filled = [
            complete(lambda inputs: fill(params, inputs), values.astype(np.float32), config.window)
            for values in encoding.align(dataset)
        ]
        columns = {
            encoding.features[place].name: tuple(each[:, number] for each in filled)
            for number, place in enumerate(pre_post.numbers)
        }
        return Predictions(columns, "step", dataset.times)

    return Model(
        params=network.params,
        predict=predict,
        export_spec=_export_spec(network, pre_post),
        batch_weight=number_of_targets,
    )


def complete(fill: Any, values: np.ndarray, window: int) -> np.ndarray:
    """Fills the gaps of a sequence (T, F) by windows that overlap by half; returns (T, K).

    A step is taken from the window in whose middle it is most.
    """
    length = len(values)
    starts = np.minimum(np.arange(0, length, max(1, window // 2)), max(0, length - window))
    starts = np.unique(starts)
    padded = np.pad(values, ((0, window), (0, 0)), constant_values=np.nan)
    filled = fill(padded[starts[:, None] + np.arange(window)])
    steps = np.arange(length)
    middle = starts + (window - 1) / 2
    chosen = np.abs(steps[:, None] - middle).argmin(axis=1)
    return filled[chosen, steps - starts[chosen]]


def carried_forward(pre_post: FillGaps, inputs: np.ndarray) -> np.ndarray:
    """Returns the last value before each step of windows; ahead of the first, the mean."""
    values = inputs[..., list(pre_post.numbers)]
    is_given = np.isfinite(values)
    steps = np.arange(values.shape[1])[None, :, None]
    latest = np.maximum.accumulate(np.where(is_given, steps, -1), axis=1)
    found = np.take_along_axis(values, np.maximum(latest, 0), axis=1)
    return np.where(latest < 0, _means(pre_post, inputs), found)


def _means(pre_post: FillGaps, inputs: np.ndarray) -> np.ndarray:
    """Returns the training part's means, or with scale "sequence" the windows' own."""
    values = inputs[..., list(pre_post.numbers)]
    mean = np.broadcast_to(pre_post.constant("mean"), values.shape)
    if pre_post.encoding.scale != "sequence":
        return mean
    is_given = np.isfinite(values)
    count = is_given.sum(axis=1, keepdims=True)
    own = np.where(is_given, values, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.where(count > 0, own, mean)


def _line(pre_post: FillGaps, inputs: np.ndarray) -> np.ndarray:
    values = inputs[..., list(pre_post.numbers)]
    line = jax.jit(pre_post.line)
    found = [
        np.asarray(line(values[some], np.isfinite(values[some]))) for some in _pieces(len(values))
    ]
    return np.concatenate(found)


def _with_indicators(encoding: Encoding) -> Encoding:
    """Returns the encoding with an indicator of each number that is missing."""
    features = tuple(
        feature.model_copy(update={"has_missing": feature.categories is None})
        for feature in encoding.features
    )
    return encoding.model_copy(update={"features": features})


def _pre_post(config: SequencesConfig, encoding: Encoding) -> FillGaps:
    numbers = [place for place, each in enumerate(encoding.features) if each.categories is None]
    return FillGaps(encoding, config.window, tuple(numbers))


def _network(config: SequencesConfig, pre_post: FillGaps) -> Network:
    encoding = pre_post.encoding
    return build_network(
        config.model,
        encoding.width,
        len(pre_post.numbers),
        readout="every step",
        seed=config.seed,
        embeddings=encoding.embeddings,
    )


def _fill(
    network: Network, pre_post: FillGaps, params: Params, inputs: Array, key: jax.Array | None
) -> jax.Array:
    inputs = jnp.asarray(inputs)
    return pre_post.after(inputs, network.apply(params, pre_post.before(inputs), key=key))


def _make_fill(network: Network, pre_post: FillGaps) -> Any:
    """Returns the function that fills windows (N, window, F), some at a time."""
    run = jax.jit(lambda params, inputs: _fill(network, pre_post, params, inputs, None))

    def fill(params: Params, inputs: np.ndarray) -> np.ndarray:
        found = [np.asarray(run(params, inputs[some])) for some in _pieces(len(inputs))]
        return np.concatenate(found)

    return fill


def _export_spec(network: Network, pre_post: FillGaps) -> ExportSpec:
    features = len(pre_post.encoding.features)
    return make_export_spec(
        network,
        pre_post,
        ("batch", pre_post.window, features),
        ("batch", pre_post.window, len(pre_post.numbers)),
        streams=False,
    )


def _pieces(count: int) -> Iterator[slice]:
    for first in range(0, count, EVAL_BATCH):
        yield slice(first, first + EVAL_BATCH)


def _sentence(windows: Windows, names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return (
        f"In windows of {windows.window} steps, {HIDDEN:.0%} of the known values of {shown} are "
        f"hidden, in half of the windows {RUN} steps in a row; the network finds them."
    )
