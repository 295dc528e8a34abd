"""The adding problem: the sum of the two marked numbers of a sequence."""

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import gru_jax
from experiments import plots
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.export_spec import PrePost, make_export_spec
from experiments.generated import TEST, TRAIN_SEQUENCES, VALIDATION, training_batches
from experiments.models.recurrent import Network, build_network
from experiments.task import Task
from experiments.typing import Array, Metrics, Params, Split


class Config(ExperimentConfig, frozen=True):
    """Adds the two marked numbers of a sequence (Hochreiter & Schmidhuber 1997, section 5.4)."""

    task: Literal["adding"] = "adding"
    length: int = Field(default=200, ge=2, description="Steps of a sequence, T.")
    train_sequences: int | None = Field(default=None, ge=1, description=TRAIN_SEQUENCES)
    held_out: int = Field(
        default=1000, ge=1, description="Sequences of the validation and of the test split, each."
    )


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

    mse = jax.jit(lambda params, batch: loss(params, batch, None)[0])

    def evaluate(params: Params, split: Split) -> Metrics:
        return {"mse": float(mse(params, splits[split]))}

    predict = jax.jit(lambda params, sequences: network.apply(params, sequences)[:, 0])

    def plot(params: Params, directory: Path) -> None:
        test = splits["test"]
        predicted = np.asarray(predict(params, test.sequences))
        title = f"Adding problem, {config.length} steps"
        plots.scatter(test.sums, predicted, title, directory / "predictions.png")

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
        mode="min",
        baselines=partial(baselines, splits["test"]),
        plot=plot,
        export_spec=make_export_spec(network, PrePost(), ("batch", "time", 2), ("batch", 1)),
    )


def make_network(config: Config) -> Network:
    """Initialises the network: 2 input features, 1 output."""
    return build_network(config.model, 2, 1, readout="last step", seed=config.seed)


def gradient_norms(network: Network, params: Params, batch: Sums) -> np.ndarray:
    """Returns the norm of d loss_T / d h_t at each step, averaged over sequences: (T,).

    For an LSTM h_t is its whole state, (h, c).

    Raises:
        UserError: a network of several layers or directions, which has several states.
    """
    if network.num_cells != 1:
        raise UserError(
            "Gradients through time need a model of one unidirectional layer, but the model has "
            f"{network.num_cells} cells."
        )
    cell = network.first_cell(params)
    xs = jnp.swapaxes(jnp.asarray(batch.sequences), 0, 1)
    h0 = gru_jax.initial_state(cell, (xs.shape[1],))

    # The gradient with respect to a perturbation of h_t is that with respect to h_t.
    def loss(perturbations: Any) -> jax.Array:
        def step(state: Any, inputs: tuple[jax.Array, Any]) -> tuple[Any, None]:
            x, perturbation = inputs
            return jax.tree.map(jnp.add, gru_jax.step(cell, state, x), perturbation), None

        last, _ = jax.lax.scan(step, h0, (xs, perturbations))
        predicted = network.read_out(params, cell.output(last))[:, 0]
        return jnp.sum(jnp.square(predicted - batch.sums))

    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(xs), *leaf.shape)), h0)
    squares = [
        jnp.sum(jnp.square(leaf), axis=-1)
        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(zeros))
    ]
    return np.asarray(jnp.sqrt(sum(squares[1:], squares[0])).mean(axis=1))


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
