"""Handwritten digits, one pixel per step: scikit-learn's 1,797 images of 8 x 8, 64 steps each."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gru_jax
from experiments import plots
from experiments.batches import shuffled_batches
from experiments.classifiers import (
    METRIC_LABELS,
    Examples,
    baselines,
    make_evaluate,
    plot_confusion,
)
from experiments.export_spec import Standardize, make_export_spec
from experiments.models.gate_activations import gates
from experiments.models.recurrent import build_network
from experiments.task import Task
from experiments.tasks.configs import DigitsConfig as Config
from experiments.typing import Array, Params

CLASSES = 10
SPLIT_SEED = 0


class Images(NamedTuple):
    """Images as sequences: pixels (N, 64) in [0, 1], in row-major order, and labels (N,)."""

    pixels: Array
    labels: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to the digits, which scikit-learn includes; `data_dir` is not used."""
    del data_dir
    splits = split_digits()
    train, test = splits["train"], splits["test"]
    network = build_network(config.model, 1, CLASSES, readout="last step", seed=config.seed)
    pre_post = Standardize(float(train.pixels.mean()), float(train.pixels.std()))
    batches = shuffled_batches(config.seed, len(train.labels), config.training.batch_size)

    def batch_at(step: int) -> Images:
        chosen = batches(step)
        return Images(train.pixels[chosen], train.labels[chosen])

    def logits_of(params: Params, pixels: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return network.apply(params, pre_post.before(pixels), key=key)

    def loss(
        params: Params, batch: Images, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        pixels = jnp.asarray(batch.pixels)
        if key is not None:
            noise_key, key = jax.random.split(key)
            pixels += config.noise * jax.random.normal(noise_key, pixels.shape)
        logits = logits_of(params, pixels, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return losses.mean(), {"accuracy": jnp.mean(logits.argmax(-1) == batch.labels)}

    def plot(params: Params, directory: Path) -> None:
        predicted = np.asarray(jax.jit(logits_of)(params, test.pixels).argmax(-1))
        plot_confusion(test.labels, predicted, "Test digits", directory)
        cell = network.first_cell(params)
        if type(cell) is gru_jax.GRUParams:
            digit = test.pixels[0]
            plots.gate_activity(
                gates(cell, pre_post.before(digit)),
                digit,
                f"Gates of the first layer, on a {test.labels[0]}",
                directory / "gate_activity.png",
                tick_every=8,
            )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=make_evaluate(loss, splits),
        metric_labels=METRIC_LABELS,
        loss_metric="cross_entropy",
        monitor="accuracy",
        baselines=lambda: baselines(*(Examples(*split) for split in splits.values())),
        plot=plot,
        export_spec=make_export_spec(network, pre_post, ("batch", "time"), ("batch", CLASSES)),
    )


def split_digits() -> dict[str, Images]:
    """Splits the digits into 60 % train, 20 % validation and 20 % test, the same for every seed.

    The splits are stratified: each has the same class frequencies.
    """
    digits: Any = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)

    def divide(indices: np.ndarray, fraction: float) -> list[Any]:
        return train_test_split(
            indices, test_size=fraction, stratify=labels[indices], random_state=SPLIT_SEED
        )

    rest, test = divide(np.arange(len(labels)), 0.2)
    train, validation = divide(rest, 0.25)
    indices = {"train": train, "validation": validation, "test": test}
    return {split: Images(pixels[chosen], labels[chosen]) for split, chosen in indices.items()}
