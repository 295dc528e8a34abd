"""What classification, regression and labelling share: a target of a sequence or of each step."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import confusion_matrix

from experiments import plots
from experiments.errors import UserError
from experiments.evaluation import over_devices
from experiments.export_spec import ExportSpec, make_export_spec
from experiments.models.recurrent import Network, build_network
from experiments.own_data.baselines import baselines
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding, fit_encoding, train_targets
from experiments.own_data.examples import (
    BucketedBatches,
    EncodedPart,
    Examples,
    encode_parts,
    evaluation_batches,
    in_order_of_names,
)
from experiments.own_data.model import Model, Predictions
from experiments.own_data.serving import RawUnits
from experiments.own_data.splits import split_dataset
from experiments.task import DataRecord, Task
from experiments.typing import Metrics, Params, Split
from gru_jax import training

MAX_PLOTTED = 20
"""Classes of a confusion matrix, and of the columns of probabilities."""


def build_supervised(config: SequencesConfig, dataset: Dataset, *, of_steps: bool) -> Task:
    """Binds a config to data whose targets are of sequences, or of each step.

    Raises:
        UserError: the data or the config do not fit.
    """
    _check(config, dataset, of_steps)
    dataset = in_order_of_names(dataset)
    splits = split_dataset(dataset, config.data)
    encoding = fit_encoding(dataset, splits, config.data)
    parts = encode_parts(dataset, splits, encoding, config)
    network = _network(config, encoding, of_steps)
    loss = partial(_loss, network, encoding)
    sums = jax.jit(partial(_sums, network, encoding))

    def evaluate(params: Params, split: Split) -> Metrics:
        part = parts[split]
        batches = (batch for _, batch in evaluation_batches(part.inputs, part.targets))
        return training.mean_metrics(sums, params, over_devices(params, batches))

    target = encoding.target
    assert target is not None
    return Task(
        params=network.params,
        loss=loss,
        batch_at=BucketedBatches(parts["train"], config.seed, config.training.batch_size),
        evaluate=evaluate,
        metric_labels={"accuracy": "accuracy", "cross_entropy": "cross entropy (nats)"}
        if target.classes is not None
        else {
            "mse": "mean squared error (standardised)",
            "mae": f"mean absolute error of {target.name}",
        },
        loss_metric="mse" if target.classes is None else "cross_entropy",
        monitor="mse" if target.classes is None else "cross_entropy",
        baselines=partial(baselines, parts, encoding),
        plot=partial(_plot, network, encoding, parts["test"]),
        batch_weight=_count if of_steps else None,
        export_spec=_export_spec(network, encoding, of_steps),
        data=DataRecord(
            (
                *dataset.notes,
                splits.sentence,
                *described(encoding),
                _described_target(encoding, train_targets(dataset, splits), dataset),
            ),
            {"encoding": encoding.to_json()},
        ),
    )


def restore_supervised(
    config: SequencesConfig, record: Mapping[str, Any], where: str, *, of_steps: bool
) -> Model:
    """Returns the model of a run from its record; see :class:`experiments.own_data.model.Problem`.

    Raises:
        UserError: the record is corrupted.
    """
    encoding = Encoding.from_json(record.get("encoding", {}), where)
    network = _network(config, encoding, of_steps)
    return Model(
        params=network.params,
        predict=partial(_predict, network, encoding),
        export_spec=_export_spec(network, encoding, of_steps),
        batch_weight=_count if of_steps else None,
    )


def described(encoding: Encoding) -> list[str]:
    """Returns sentences on the features of a network, and on how they are scaled."""
    shown = []
    for feature in encoding.features[:8]:
        if feature.categories is None:
            missing = ", some are missing" if feature.has_missing else ""
            shown.append(f"{feature.name} (numbers{missing})")
        else:
            how = "embedded" if feature.is_embedded else "one-hot"
            shown.append(f"{feature.name} ({len(feature.categories)} categories, {how})")
    more = len(encoding.features) - len(shown)
    shown += [f"and {more} more"] if more else []
    scales = {
        "all": "Numbers are standardised by mean and deviation of the training part.",
        "sequence": "Numbers are standardised for each sequence by itself.",
        "none": "Numbers are not standardised.",
    }
    return [f"Inputs: {', '.join(shown)}.", scales[encoding.scale]]


def _check(config: SequencesConfig, dataset: Dataset, of_steps: bool) -> None:
    if dataset.target is None or dataset.targets is None:
        raise UserError(
            f"{config.data.path} has no target for {config.problem}. Name it by data.target."
        )
    if isinstance(dataset.targets, np.ndarray) == of_steps:
        kinds = ("of each step", "of whole sequences")
        raise UserError(
            f"problem is {config.problem}, whose targets are {kinds[not of_steps]}, but "
            f"{config.data.path} has targets {kinds[of_steps]}."
        )
    classes = dataset.target.classes
    if config.problem == "classification" and classes is None:
        raise UserError(
            f"problem is classification, but {dataset.target.name} has numbers. Use regression."
        )
    if config.problem == "regression" and classes is not None:
        raise UserError(
            f"problem is regression, but {dataset.target.name} has the classes "
            f"{', '.join(classes[:10])}. Use classification."
        )
    if not of_steps and config.data.split == "time":
        raise UserError(
            "data.split is time, but a sequence with one target cannot be divided: use sequence."
        )
    infinite = [
        name for name, of in zip(dataset.names, dataset.inputs, strict=True) if np.isinf(of).any()
    ]
    if infinite:
        raise UserError(f"{config.data.path}: the sequence {infinite[0]} has infinite numbers.")


def _network(config: SequencesConfig, encoding: Encoding, of_steps: bool) -> Network:
    assert encoding.target is not None
    classes = encoding.target.classes
    return build_network(
        config.model,
        encoding.width,
        1 if classes is None else len(classes),
        readout="every step" if of_steps else "last step",
        seed=config.seed,
        embeddings=encoding.embeddings,
    )


def _sums(
    network: Network,
    encoding: Encoding,
    params: Params,
    batch: Examples,
    key: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns the metrics, summed over the targets of a batch, and the number of targets."""
    assert encoding.target is not None
    outputs = network.apply(params, batch.inputs, lengths=batch.lengths, key=key)
    targets, given = jnp.asarray(batch.targets), _is_given(batch.targets)
    if encoding.target.classes is None:
        # NaN times 0 would be NaN in the gradient.
        missed = outputs[..., 0] - jnp.where(given, targets, 0)
        each = {
            "mse": jnp.square(missed),
            "mae": jnp.abs(missed) * encoding.target.deviation,
        }
    else:
        labels = jnp.where(given, targets, 0)
        each = {
            "accuracy": (outputs.argmax(axis=-1) == labels).astype(jnp.float32),
            "cross_entropy": optax.softmax_cross_entropy_with_integer_labels(outputs, labels),
        }
    sums = {name: jnp.sum(values, where=given) for name, values in each.items()}
    return sums, jnp.sum(given).astype(jnp.float32)


def _loss(
    network: Network, encoding: Encoding, params: Params, batch: Examples, key: jax.Array | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    sums, count = _sums(network, encoding, params, batch, key)
    # A batch of steps may have no target.
    means = {name: value / jnp.maximum(count, 1) for name, value in sums.items()}
    if "mse" in means:
        return means["mse"], {"mae": means["mae"]}
    return means["cross_entropy"], {"accuracy": means["accuracy"]}


def _is_given(targets: Any) -> jax.Array:
    targets = jnp.asarray(targets)
    return ~jnp.isnan(targets) if jnp.issubdtype(targets.dtype, jnp.floating) else targets >= 0


def _count(batch: Examples) -> jax.Array:
    return jnp.sum(_is_given(batch.targets))


def _export_spec(network: Network, encoding: Encoding, of_steps: bool) -> ExportSpec:
    assert encoding.target is not None
    outputs: tuple[int | str, ...] = ("batch", "time") if of_steps else ("batch",)
    if encoding.target.classes is not None:
        outputs = (*outputs, len(encoding.target.classes))
    return make_export_spec(
        network,
        RawUnits(encoding),
        ("batch", "time", len(encoding.features)),
        outputs,
        lengths=True,
        streams=encoding.scale != "sequence",
        metadata={"encoding": encoding.to_json()},
    )


def _outputs(
    network: Network, encoding: Encoding, params: Params, inputs: list[np.ndarray]
) -> list[np.ndarray]:
    """Returns the outputs in the target's units, (..., C) or (...), of each sequence."""

    @jax.jit
    def apply(params: Params, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        outputs = network.apply(params, inputs, lengths=lengths)
        return RawUnits(encoding).after(inputs, outputs)

    found: list[Any] = [None] * len(inputs)
    for chosen, batch in evaluation_batches(inputs, np.full(len(inputs), np.nan)):
        outputs = np.asarray(apply(params, batch.inputs, batch.lengths))
        for row, index in enumerate(chosen):
            of_sequence = outputs[row]
            found[index] = (
                of_sequence if network.reads_last_step else of_sequence[: len(inputs[index])]
            )
    return found


def _predict(network: Network, encoding: Encoding, params: Params, dataset: Dataset) -> Predictions:
    target = encoding.target
    assert target is not None
    outputs = _outputs(network, encoding, params, list(encoding.encode(dataset)))
    rows = "sequence" if network.reads_last_step else "step"
    times = None if rows == "sequence" else dataset.times
    if target.classes is None:
        return Predictions({target.name: tuple(map(np.atleast_1d, outputs))}, rows, times)
    # (rows, C) of each sequence.
    tables = [np.atleast_2d(of_sequence) for of_sequence in outputs]
    names = np.array(target.classes, dtype=object)
    columns = {target.name: tuple(names[table.argmax(axis=-1)] for table in tables)}
    if len(names) <= MAX_PLOTTED:
        for index, name in enumerate(names):
            columns[f"probability of {name}"] = tuple(table[:, index] for table in tables)
    return Predictions(columns, rows, times)


def _plot(
    network: Network, encoding: Encoding, test: EncodedPart, params: Params, directory: Path
) -> None:
    target = encoding.target
    assert target is not None
    if target.classes is None or len(target.classes) > MAX_PLOTTED:
        return
    outputs = _outputs(network, encoding, params, test.inputs)
    predicted = np.concatenate([np.atleast_2d(table).argmax(axis=-1) for table in outputs])
    labels = np.concatenate([np.atleast_1d(of_one) for of_one in test.targets])
    predicted, labels = predicted[labels >= 0], labels[labels >= 0]
    plots.confusion_matrix(
        confusion_matrix(labels, predicted, labels=range(len(target.classes))),
        target.classes,
        f"{target.name} of the test part, {np.mean(predicted == labels):.1%} correct",
        directory / "confusion_matrix.png",
    )


def _described_target(encoding: Encoding, values: np.ndarray, dataset: Dataset) -> str:
    target, theirs = encoding.target, dataset.target
    assert target is not None
    assert theirs is not None
    if target.classes is None:
        return (
            f"Target: {target.name}, numbers from {values.min():g} to {values.max():g} in the "
            "training part."
        )
    counts = np.bincount(values.astype(int), minlength=len(theirs.classes or ()))
    most = (theirs.classes or ())[int(counts.argmax())]
    return (
        f"Target: {target.name}, {len(target.classes)} classes; the most frequent one, {most}, is "
        f"{counts.max() / counts.sum():.0%} of the training part."
    )
