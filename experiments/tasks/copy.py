"""The copy memory: ten symbols, a long silence, a signal, and the ten symbols again."""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.export_spec import OneHot, serving
from experiments.models.recurrent import build_network
from experiments.task import Array, Figures, Params, Split, Task

TRAIN, VALIDATION, TEST = range(3)
REMEMBERED = 10
BLANK, SYMBOLS, SIGNAL = 0, 8, 9
INPUTS, CLASSES = 10, 9


class Config(ExperimentConfig, frozen=True):
    """Repeats ten symbols after a silence (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016)."""

    task: Literal["copy"] = "copy"
    length: int = Field(default=500, ge=1, description="Steps of silence, T; T + 20 in all.")
    held_out: int = Field(
        default=200, ge=1, description="Sequences in the validation split, and in the test split."
    )


class Copies(NamedTuple):
    """Symbols read and symbols to be written, both (N, T + 20)."""

    read: Array
    written: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to generated sequences: nothing is read from `data_dir`."""
    del data_dir
    # The held-out sequences are the same for every seed of the run.
    splits: dict[Split, Copies] = {
        "validation": draw_copies(config.held_out, config.length, (VALIDATION,)),
        "test": draw_copies(config.held_out, config.length, (TEST,)),
    }
    ends = OneHot(INPUTS)
    network = build_network(config.model, INPUTS, CLASSES, readout="every step", seed=config.seed)

    def batch_at(step: int) -> Copies:
        return draw_copies(config.training.batch_size, config.length, (TRAIN, config.seed, step))

    def logits_of(params: Params, read: Array, key: jax.Array | None = None) -> jax.Array:
        return network.apply(params, ends.before(jnp.asarray(read)), key=key)

    def loss(
        params: Params, batch: Copies, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = logits_of(params, batch.read, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.written)
        right = logits[:, -REMEMBERED:].argmax(-1) == batch.written[:, -REMEMBERED:]
        return losses.mean(), {"recalled": jnp.mean(right)}

    evaluate = jax.jit(partial(loss, key=None))

    def figures(params: Params, split: Split) -> Figures:
        value, further = evaluate(params, splits[split])
        return {"cross_entropy": float(value), "recalled": float(further["recalled"])}

    def draw(params: Params, directory: Path) -> None:
        logits = np.asarray(jax.jit(logits_of)(params, splits["test"].read[:1]))[0]
        plots.confidence(
            np.asarray(jax.nn.softmax(logits))[-REMEMBERED:].T,
            splits["test"].written[0, -REMEMBERED:],
            f"The last {REMEMBERED} steps of a test sequence, {config.length} after the first",
            directory / "recall.png",
        )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={
            "cross_entropy": "cross-entropy per step (nats)",
            "recalled": "share of the symbols recalled",
        },
        loss_figure="cross_entropy",
        monitor="cross_entropy",
        mode="min",
        baselines=partial(baselines, config.length),
        draw=draw,
        serving=serving(
            network, ends, ("batch", "time"), ("batch", "time", CLASSES), dtype="int32"
        ),
    )


def draw_copies(number: int, length: int, seed: tuple[int, ...]) -> Copies:
    """Draws sequences: ten of eight symbols, the silence, and the signal to repeat them.

    As Bai et al. 2018 (arXiv 1803.01271, section 5.1) have it: the silence lasts `length - 1`
    steps, and the signal stands at the eleven last ones.
    """
    random = np.random.default_rng(seed)
    symbols = random.integers(1, SYMBOLS + 1, (number, REMEMBERED), dtype=np.int32)
    read = np.full((number, length + 2 * REMEMBERED), BLANK, np.int32)
    read[:, :REMEMBERED] = symbols
    read[:, -REMEMBERED - 1 :] = SIGNAL
    written = np.full_like(read, BLANK)
    written[:, -REMEMBERED:] = symbols
    return Copies(read, written)


def baselines(length: int) -> dict[str, Figures]:
    """Returns the figures of a model that knows when to write, but has forgotten what."""
    steps = length + 2 * REMEMBERED
    figures = {"cross_entropy": REMEMBERED * np.log(SYMBOLS) / steps, "recalled": 1 / SYMBOLS}
    return {"without memory": figures}
