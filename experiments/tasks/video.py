"""Moving digits: predict each next frame of a film in which two handwritten digits move about."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

import gru_jax
from experiments import plots
from experiments.config import ExperimentConfig
from experiments.export_spec import Serving
from experiments.models.conv_gru import convolve, init_conv_gru
from experiments.task import Array, Figures, Params, Split, Task
from experiments.tasks.digits import split_digits
from gru_jax import training

TRAIN, VALIDATION, TEST = range(3)
SIDE = 8
SPEEDS = (1.0, 2.0)
# A frame is predicted from two or more: one does not say where anything moves.
KNOWN = 2
PATCH = 2
# Films are dark. From grey, the first steps drive the sigmoid to where it has no slope.
DARK = -2.0
FITTED, REACH = 100, 2
EVALUATED_AT_ONCE = 50


class Config(ExperimentConfig, frozen=True):
    """Predicts the next frame of moving digits, after Moving MNIST (Srivastava et al. 2015)."""

    task: Literal["video"] = "video"
    size: int = Field(
        default=24, ge=10, multiple_of=PATCH, description="Height and width of a frame, in pixels."
    )
    frames: int = Field(default=20, ge=4, description="Frames of a film.")
    held_out: int = Field(
        default=200, ge=1, description="Films in the validation split, and in the test split."
    )

    @model_validator(mode="after")
    def check_model(self) -> Self:
        """Refuses what the network of this task has not."""
        offered = {
            "cell": "gru",
            "bidirectional": False,
            "dropout": 0.0,
            "dropconnect": 0.0,
            "time_scales": None,
        }
        for name, only in offered.items():
            value = getattr(self.model, name)
            if value != only:
                raise ValueError(
                    f"model.{name} is {value!r}, but should be {only!r}: films are read by a "
                    "convolutional GRU, forward, without dropout and with its own biases."
                )
        return self


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to films made of the digits of scikit-learn: `data_dir` is not read."""
    del data_dir
    images = {
        name: np.asarray(split.pixels).reshape(-1, SIDE, SIDE)
        for name, split in split_digits().items()
    }
    draw = partial(draw_films, frames=config.frames, size=config.size)
    # The held-out films are the same for every seed of the run.
    splits: dict[Split, np.ndarray] = {
        "validation": draw(images["validation"], config.held_out, seed=(VALIDATION,)),
        "test": draw(images["test"], config.held_out, seed=(TEST,)),
    }

    def batch_at(step: int) -> np.ndarray:
        seed = (TRAIN, config.seed, step)
        return draw(images["train"], config.training.batch_size, seed=seed)

    def loss(
        params: Params, batch: Array, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        predicted, _ = predict(params, batch[:, :-1])
        return jnp.mean(jnp.square(predicted[:, KNOWN - 1 :] - batch[:, KNOWN:])), {}

    @jax.jit
    def errors(params: Params, films: Array) -> tuple[dict[str, jax.Array], int]:
        return {"mse": len(films) * loss(params, films, None)[0]}, len(films)

    def parts(split: Split) -> Iterator[np.ndarray]:
        for first in range(0, config.held_out, EVALUATED_AT_ONCE):
            yield splits[split][first : first + EVALUATED_AT_ONCE]

    def figures(params: Params, split: Split) -> Figures:
        return training.mean_metrics(errors, params, parts(split))

    def draw_strip(params: Params, directory: Path) -> None:
        film, given = splits["test"][:1], config.frames // 2
        following, _ = jax.jit(predict)(params, film[:, :-1])
        imagined = jax.jit(partial(imagine, number=config.frames - given))(params, film[:, :given])
        plots.film_strip(
            {
                "film": film[0],
                "predicted from\nall frames before": np.asarray(following[0]),
                f"predicted from\nthe first {given}": np.asarray(imagined[0]),
            },
            "Moving digits: the first test film",
            directory / "film.png",
        )

    return Task(
        params=draw_params(config),
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={"mse": "mean squared error of a pixel"},
        loss_figure="mse",
        monitor="mse",
        mode="min",
        baselines=lambda: baselines(draw(images["train"], FITTED, seed=(TRAIN,)), splits["test"]),
        draw=draw_strip,
        serving=Serving(
            lambda params, films, lengths: predict(params, films)[0],
            ("batch", "time", config.size, config.size),
            ("batch", "time", config.size, config.size),
        ),
    )


def draw_films(
    images: np.ndarray, number: int, *, frames: int, size: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Draws films (number, frames, size, size) of two of the images (N, 8, 8) each, in [0, 1].

    Each moves straight on, 1 to 2 pixels a frame, and is reflected where it meets a border; where
    one is upon the other, the brighter pixel is seen.
    """
    random = np.random.default_rng(seed)
    chosen = images[random.integers(len(images), size=(number, 2))]
    places = draw_paths(random, (number, 2), frames, size - SIDE)
    return render(chosen[:, :, None], places, size).max(axis=1)


def draw_paths(
    random: np.random.Generator, shape: tuple[int, ...], frames: int, free: int
) -> np.ndarray:
    """Draws places (*shape, frames, 2) between 0 and `free` pixels from the upper left corner."""
    begin = random.uniform(0, free, (*shape, 1, 2))
    angle = random.uniform(0, 2 * np.pi, (*shape, 1))
    speed = random.uniform(*SPEEDS, (*shape, 1, 1))
    velocity = speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    straight = begin + velocity * np.arange(frames)[:, None]
    # What goes on beyond a border is seen in a mirror that stands there.
    return free - np.abs(straight % (2 * free) - free)


def render(images: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Images (..., 8, 8) with their corners at places (..., 2), interpolated bilinearly."""
    offsets = np.arange(size)[:, None] - np.arange(SIDE)
    distances = np.abs(offsets - places[..., None, None])
    shares = np.maximum(0, 1 - distances).astype(np.float32)
    rows, columns = shares[..., 0, :, :], shares[..., 1, :, :]
    return rows @ images @ columns.swapaxes(-1, -2)


def draw_params(config: Config) -> Params:
    """Draws the network: layers of convolutional GRUs, and a convolution that reads them out."""
    model, patches = config.model, config.size // PATCH
    key_cells, key_readout = jax.random.split(jax.random.key(config.seed))
    recurrent = gru_jax.init_stack(
        key_cells,
        PATCH**2,
        model.hidden_size,
        num_layers=model.num_layers,
        init_cell=init_conv_gru,
        frame=(patches, patches),
        reset=model.reset,
    )
    draw_kernel = jax.nn.initializers.glorot_uniform()
    readout = {
        "kernel": draw_kernel(key_readout, (3, 3, model.hidden_size, PATCH**2)),
        "bias": jnp.full(PATCH**2, DARK),
    }
    return {"recurrent": recurrent, "readout": readout}


def predict(params: Params, films: Array, states: Any = None) -> tuple[jax.Array, Any]:
    """Predicts, after each frame of films (N, T, size, size), the one that follows it.

    Args:
        params: as :func:`draw_params` gives them.
        films: what is known of them.
        states: what this function returned of the frames before; None: there were none.

    Returns:
        As many frames, and the states after the last one.
    """
    frames = fold(jnp.swapaxes(films, 0, 1))
    # To write down every pixel's neighbourhood takes more time than to gather it again.
    states, hidden = gru_jax.unroll_stack(params["recurrent"], frames, states, checkpoint="step")
    readout = params["readout"]
    logits = gru_jax.add_bias(convolve(hidden, readout["kernel"]), readout["bias"])
    return jnp.swapaxes(unfold(jax.nn.sigmoid(logits)), 0, 1), states


def imagine(params: Params, films: Array, number: int) -> jax.Array:
    """The next frames (N, number, size, size), each predicted from those predicted before it."""
    predicted, states = predict(params, films)

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        frame, states = carry
        return predict(params, frame, states), frame[:, 0]

    _, frames = jax.lax.scan(step, (predicted[:, -1:], states), length=number)
    return jnp.swapaxes(frames, 0, 1)


def fold(frames: jax.Array) -> jax.Array:
    """Patches of pixels as channels: (..., size, size) to (..., size / 2, size / 2, 4).

    As Shi et al. 2015 (arXiv 1506.04214, section 4.1) have it. The neighbourhood that a state is
    computed from then reaches as far as a digit moves in a step.
    """
    *leading, height, width = frames.shape
    patches = frames.reshape(*leading, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.swapaxes(-3, -2).reshape(*leading, height // PATCH, width // PATCH, PATCH**2)


def unfold(patches: jax.Array) -> jax.Array:
    """What :func:`fold` has folded."""
    *leading, rows, columns, _ = patches.shape
    frames = patches.reshape(*leading, rows, columns, PATCH, PATCH).swapaxes(-3, -2)
    return frames.reshape(*leading, rows * PATCH, columns * PATCH)


def baselines(train: np.ndarray, test: np.ndarray) -> dict[str, Figures]:
    """Returns the test figures of four predictions that need no network."""
    before, last, wanted = test[:, :-2], test[:, 1:-1], test[:, 2:]
    weights = fit_linear(train)
    predictions = {
        "mean frame": train.mean(axis=(0, 1)),
        "last frame": last,
        "last change again": np.clip(2 * last - before, 0, 1),
        "linear map of 2 x 5 x 5 pixels": np.stack(
            [neighbourhoods(film) @ weights for film in test]
        ),
    }
    return {
        name: {"mse": float(np.mean(np.square(predicted - wanted)))}
        for name, predicted in predictions.items()
    }


def fit_linear(films: np.ndarray) -> np.ndarray:
    """The weights, by least squares, from a pixel's :func:`neighbourhoods` to its next value."""
    square, product = 0.0, 0.0
    for film in films:
        inputs = neighbourhoods(film).astype(np.float64)
        inputs = inputs.reshape(-1, inputs.shape[-1])
        square += inputs.T @ inputs
        product += inputs.T @ film[2:].reshape(-1)
    return np.linalg.lstsq(square, product)[0].astype(np.float32)


def neighbourhoods(film: np.ndarray) -> np.ndarray:
    """What lies around each pixel in two frames before a third, and a 1: (T - 2, ..., 51)."""
    padded = np.pad(film, [(0, 0), (REACH, REACH), (REACH, REACH)])
    side = 2 * REACH + 1
    near = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    near = near.reshape(*film.shape, side**2)
    return np.concatenate([near[:-2], near[1:-1], np.ones_like(film[2:, ..., None])], axis=-1)
