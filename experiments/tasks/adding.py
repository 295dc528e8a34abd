"""The adding problem: remember two marked numbers among many, and give their sum at the end."""

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
from experiments.export_spec import Ends, serving
from experiments.models.recurrent import Network, build_network
from experiments.task import Array, Figures, Params, Split, Task

TRAIN, VALIDATION, TEST = range(3)


class Config(ExperimentConfig, frozen=True):
    """Adds the two marked numbers of a sequence (Hochreiter & Schmidhuber 1997, section 5.4)."""

    task: Literal["adding"] = "adding"
    length: int = Field(default=200, ge=2, description="Steps of a sequence, T.")
    held_out: int = Field(
        default=1000, ge=1, description="Sequences in the validation split, and in the test split."
    )


class Sums(NamedTuple):
    """Sequences (N, T, 2), a number in [0, 1) and a mark at each step, and their sums (N,)."""

    sequences: Array
    sums: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to generated sequences: nothing is read from `data_dir`."""
    del data_dir
    # The held-out sequences are the same for every seed of the run.
    splits: dict[Split, Sums] = {
        "validation": draw_sums(config.held_out, config.length, (VALIDATION,)),
        "test": draw_sums(config.held_out, config.length, (TEST,)),
    }
    network = make_network(config)

    def batch_at(step: int) -> Sums:
        return draw_sums(config.training.batch_size, config.length, (TRAIN, config.seed, step))

    def loss(
        params: Params, batch: Sums, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        predicted = network.apply(params, batch.sequences, key=key)[:, 0]
        return jnp.mean(jnp.square(predicted - batch.sums)), {}

    evaluate = jax.jit(lambda params, batch: loss(params, batch, None)[0])

    def figures(params: Params, split: Split) -> Figures:
        return {"mse": float(evaluate(params, splits[split]))}

    predict = jax.jit(lambda params, sequences: network.apply(params, sequences)[:, 0])

    def draw(params: Params, directory: Path) -> None:
        test = splits["test"]
        predicted = np.asarray(predict(params, test.sequences))
        title = f"Adding problem, {config.length} steps"
        plots.scatter(test.sums, predicted, title, directory / "predictions.png")

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={"mse": "mean squared error"},
        loss_figure="mse",
        monitor="mse",
        mode="min",
        baselines=partial(baselines, splits["test"]),
        draw=draw,
        serving=serving(network, Ends(), ("batch", "time", 2), ("batch", 1)),
    )


def make_network(config: Config) -> Network:
    """Draws the network: numbers and marks in, their sum out."""
    return build_network(config.model, 2, 1, readout="last step", seed=config.seed)


def gradient_norms(network: Network, params: Params, batch: Sums) -> np.ndarray:
    """Returns the norm of d loss_T / d h_t, averaged over sequences, after each step: (T,).

    The state h of an LSTM is both of its vectors.

    Raises:
        UserError: for a network of several layers or both directions, which has several states.
    """
    if network.num_cells != 1:
        raise UserError("Gradients through time are those of one layer that reads forward.")
    cell = network.first_cell(params)
    xs = jnp.swapaxes(jnp.asarray(batch.sequences), 0, 1)
    initial = gru_jax.initial_state(cell, (xs.shape[1],))

    def loss(moved: Any) -> jax.Array:
        def step(state: Any, inputs: tuple[jax.Array, Any]) -> tuple[Any, None]:
            x, by = inputs
            return jax.tree.map(jnp.add, gru_jax.step(cell, state, x), by), None

        last, _ = jax.lax.scan(step, initial, (xs, moved))
        predicted = network.read_out(params, cell.output(last))[:, 0]
        return jnp.sum(jnp.square(predicted - batch.sums))

    still = jax.tree.map(lambda leaf: jnp.zeros((len(xs), *leaf.shape)), initial)
    squares = [
        jnp.sum(jnp.square(leaf), axis=-1)
        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(still))
    ]
    return np.asarray(jnp.sqrt(sum(squares[1:], squares[0])).mean(axis=1))


def draw_sums(number: int, length: int, seed: tuple[int, ...]) -> Sums:
    """Draws sequences in which two different steps, uniform over all pairs, are marked."""
    random = np.random.default_rng(seed)
    numbers = random.random((number, length), dtype=np.float32)
    first = random.integers(length, size=number)
    second = (first + random.integers(1, length, size=number)) % length
    rows = np.arange(number)
    marks = np.zeros((number, length), np.float32)
    marks[rows, first] = marks[rows, second] = 1
    sums = numbers[rows, first] + numbers[rows, second]
    return Sums(np.stack([numbers, marks], axis=-1), sums)


def baselines(test: Sums) -> dict[str, Figures]:
    """Returns the test figure of predicting the mean sum, 1, whose expectation is 1/6."""
    return {"mean of all sums": {"mse": float(np.mean(np.square(test.sums - 1)))}}
