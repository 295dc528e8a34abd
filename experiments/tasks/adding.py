"""The adding problem: the sum of the two marked numbers of a sequence."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments import plots
from experiments.evaluation import mean_over_rows
from experiments.export_spec import PrePost, make_export_spec
from experiments.generated import TEST, VALIDATION, training_batches
from experiments.models.gate_activations import gates
from experiments.models.recurrent import Network, build_network
from experiments.models.state_gradients import LastStepLoss
from experiments.task import Task
from experiments.tasks.configs import AddingConfig as Config
from experiments.typing import Array, Metrics, Params, Split


class Sums(NamedTuple):
    """Sequences (N, T, 2) of numbers in [0, 1) and marks in {0, 1}, and the sums (N,)."""

    sequences: Array
    sums: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to generated sequences; `data_dir` is not used."""
    del data_dir
    # Validation and test sequences do not depend on the seed of the run.
    splits: dict[Split, Sums] = {
        "validation": sample_sums(config.held_out, config.length, (VALIDATION,)),
        "test": sample_sums(config.held_out, config.length, (TEST,)),
    }
    network = make_network(config)

    def sample(number: int, seed: tuple[int, ...]) -> Sums:
        return sample_sums(number, config.length, seed)

    def loss(
        params: Params, batch: Sums, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        predicted = network.apply(params, batch.sequences, key=key)[:, 0]
        return jnp.mean(jnp.square(predicted - batch.sums)), {}

    means = jax.jit(lambda params, batch: {"mse": loss(params, batch, None)[0]})

    def evaluate(params: Params, split: Split) -> Metrics:
        return mean_over_rows(means, params, splits[split])

    predict = jax.jit(lambda params, sequences: network.apply(params, sequences)[:, 0])

    def plot(params: Params, directory: Path) -> None:
        test = splits["test"]
        predicted = np.asarray(predict(params, test.sequences))
        title = f"Adding problem, {config.length} steps"
        plots.scatter(test.sums, predicted, title, directory / "predictions.png")
        cell = network.first_cell(params)
        if type(cell) is gru_jax.GRUParams:
            plots.gate_activity(
                gates(cell, jnp.asarray(test.sequences[0])),
                test.sequences[0, :, 1],
                "Gates of the first layer, and the marks of a test sequence",
                directory / "gate_activity.png",
                tick_every=max(config.length // 10, 1),
            )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=training_batches(
            sample, config.seed, config.training.batch_size, config.train_sequences
        ),
        evaluate=evaluate,
        metric_labels={"mse": "mean squared error"},
        loss_metric="mse",
        monitor="mse",
        baselines=partial(baselines, splits["test"]),
        plot=plot,
        export_spec=make_export_spec(network, PrePost(), ("batch", "time", 2), ("batch", 1)),
        last_step_loss=LastStepLoss(
            network,
            splits["test"].sequences,
            splits["test"].sums,
            lambda outputs, sums: jnp.square(outputs[:, 0] - sums),
            description="the squared error of the sum, which is read at the last step",
            baseline="mean of all sums",
        ),
    )


def make_network(config: Config) -> Network:
    """Initialises the network: 2 input features, 1 output."""
    return build_network(config.model, 2, 1, readout="last step", seed=config.seed)


def sample_sums(number: int, length: int, seed: tuple[int, ...]) -> Sums:
    """Samples sequences; the pair of marked steps is uniform over all pairs."""
    random = np.random.default_rng(seed)
    numbers = random.random((number, length), dtype=np.float32)
    first = random.integers(length, size=number)
    second = (first + random.integers(1, length, size=number)) % length
    rows = np.arange(number)
    marks = np.zeros((number, length), np.float32)
    marks[rows, first] = marks[rows, second] = 1
    sums = numbers[rows, first] + numbers[rows, second]
    return Sums(np.stack([numbers, marks], axis=-1), sums)


def baselines(test: Sums) -> dict[str, Metrics]:
    """Returns the test MSE of predicting the mean sum, 1; its expectation is 1/6."""
    return {"mean of all sums": {"mse": float(np.mean(np.square(test.sums - 1)))}}
