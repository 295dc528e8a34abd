"""Moving digits: next-frame prediction for films of two moving handwritten digits."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments import plots
from experiments.evaluation import over_devices
from experiments.export_spec import ExportSpec
from experiments.models.conv_gru import convolve, init_conv_gru
from experiments.task import Task
from experiments.tasks.configs import PATCH
from experiments.tasks.configs import VideoConfig as Config
from experiments.tasks.digits import split_digits
from experiments.typing import Array, Metrics, Params, Split
from gru_jax import training
from gru_jax.cells import add_bias

TRAIN, VALIDATION, TEST = range(3)
SIDE = 8
SPEEDS = (1.0, 2.0)
# Frames before the first predicted one: a single frame does not show the motion.
CONTEXT_FRAMES = 2
# Bias of the readout. Films are dark: from a bias of 0, the first updates saturate the sigmoid.
DARK = -2.0
# Films and neighbourhood of the linear baseline.
NUM_FITTED, REACH = 100, 2
EVAL_BATCH = 50


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to films generated from scikit-learn's digits; `data_dir` is not used."""
    del data_dir
    images = {
        name: np.asarray(split.pixels).reshape(-1, SIDE, SIDE)
        for name, split in split_digits().items()
    }
    sample = partial(sample_films, frames=config.frames, size=config.size)
    # Validation and test films do not depend on the seed of the run.
    splits: dict[Split, np.ndarray] = {
        "validation": sample(images["validation"], config.held_out, seed=(VALIDATION,)),
        "test": sample(images["test"], config.held_out, seed=(TEST,)),
    }

    def batch_at(step: int) -> np.ndarray:
        seed = (TRAIN, config.seed, step)
        return sample(images["train"], config.training.batch_size, seed=seed)

    def loss(
        params: Params, batch: Array, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        predicted, _ = predict(params, batch[:, :-1])
        missed = predicted[:, CONTEXT_FRAMES - 1 :] - batch[:, CONTEXT_FRAMES:]
        return jnp.mean(jnp.square(missed)), {}

    @jax.jit
    def errors(params: Params, films: Array) -> tuple[dict[str, jax.Array], int]:
        return {"mse": len(films) * loss(params, films, None)[0]}, len(films)

    def batches_of(split: Split) -> Iterator[np.ndarray]:
        for first in range(0, config.held_out, EVAL_BATCH):
            yield splits[split][first : first + EVAL_BATCH]

    def evaluate(params: Params, split: Split) -> Metrics:
        batches = over_devices(params, batches_of(split))
        return training.mean_metrics(errors, params, batches)

    def plot(params: Params, directory: Path) -> None:
        film, context = splits["test"][:1], config.frames // 2
        predicted, _ = jax.jit(predict)(params, film[:, :-1])
        rolled_out = jax.jit(partial(rollout, length=config.frames - context))(
            params, film[:, :context]
        )
        plots.film_strip(
            {
                "film": film[0],
                "predicted from\nall frames before": np.asarray(predicted[0]),
                f"predicted from\nthe first {context}": np.asarray(rolled_out[0]),
            },
            "Moving digits: the first test film",
            directory / "film.png",
        )

    return Task(
        params=init_params(config),
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels={"mse": "mean squared error of a pixel"},
        loss_metric="mse",
        monitor="mse",
        baselines=lambda: baselines(
            sample(images["train"], NUM_FITTED, seed=(TRAIN,)), splits["test"]
        ),
        plot=plot,
        export_spec=ExportSpec(
            lambda params, films, lengths: predict(params, films)[0],
            ("batch", "time", config.size, config.size),
            ("batch", "time", config.size, config.size),
        ),
    )


def sample_films(
    images: np.ndarray, number: int, *, frames: int, size: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Samples films (number, frames, size, size) in [0, 1], of two of the images (N, 8, 8) each.

    Each image moves in a straight line, 1 to 2 pixels per frame, and is reflected at the borders.
    Where the two overlap, the brighter pixel is visible.
    """
    random = np.random.default_rng(seed)
    chosen = images[random.integers(len(images), size=(number, 2))]
    positions = sample_paths(random, (number, 2), frames, size - SIDE)
    return render(chosen[:, :, None], positions, size).max(axis=1)


def sample_paths(
    random: np.random.Generator, shape: tuple[int, ...], frames: int, free: int
) -> np.ndarray:
    """Samples positions (*shape, frames, 2) of upper left corners, between 0 and `free` pixels."""
    begin = random.uniform(0, free, (*shape, 1, 2))
    angle = random.uniform(0, 2 * np.pi, (*shape, 1))
    speed = random.uniform(*SPEEDS, (*shape, 1, 1))
    velocity = speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    straight = begin + velocity * np.arange(frames)[:, None]
    # A reflection at a border is the mirror image of the straight path.
    return free - np.abs(straight % (2 * free) - free)


def render(images: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """Renders images (..., 8, 8) at positions (..., 2) of their corners, bilinearly."""
    offsets = np.arange(size)[:, None] - np.arange(SIDE)
    distances = np.abs(offsets - positions[..., None, None])
    weights = np.maximum(0, 1 - distances).astype(np.float32)
    rows, columns = weights[..., 0, :, :], weights[..., 1, :, :]
    return rows @ images @ columns.swapaxes(-1, -2)


def init_params(config: Config) -> Params:
    """Initialises the network: layers of convolutional GRUs, and a convolution as readout."""
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
    init_kernel = jax.nn.initializers.glorot_uniform()
    readout = {
        "kernel": init_kernel(key_readout, (3, 3, model.hidden_size, PATCH**2)),
        "bias": jnp.full(PATCH**2, DARK),
    }
    return {"recurrent": recurrent, "readout": readout}


def predict(params: Params, films: Array, states: Any = None) -> tuple[jax.Array, Any]:
    """Predicts the next frame after each frame of films.

    Args:
        params: parameters, from :func:`init_params`.
        films: (N, T, size, size).
        states: the states returned for the previous frames; None for the first ones.

    Returns:
        The predictions, (N, T, size, size), and the states after the last frame.
    """
    frames = fold(jnp.swapaxes(films, 0, 1))
    # Saving every pixel's neighbourhood as a residual takes more time than gathering it again.
    states, hidden = gru_jax.unroll_stack(params["recurrent"], frames, states, checkpoint="step")
    readout = params["readout"]
    logits = add_bias(convolve(hidden, readout["kernel"]), readout["bias"])
    return jnp.swapaxes(unfold(jax.nn.sigmoid(logits)), 0, 1), states


def rollout(params: Params, films: Array, length: int) -> jax.Array:
    """Predicts the next frames (N, length, size, size), each from the predictions before it."""
    predicted, states = predict(params, films)

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        frame, states = carry
        return predict(params, frame, states), frame[:, 0]

    _, frames = jax.lax.scan(step, (predicted[:, -1:], states), length=length)
    return jnp.swapaxes(frames, 0, 1)


def fold(frames: jax.Array) -> jax.Array:
    """Turns patches of pixels into channels: (..., size, size) to (..., size / 2, size / 2, 4).

    Shi et al. 2015, arXiv 1506.04214, section 4.1. The receptive field of a state's update then
    covers the distance that a digit moves in one step.
    """
    *leading, height, width = frames.shape
    patches = frames.reshape(*leading, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.swapaxes(-3, -2).reshape(*leading, height // PATCH, width // PATCH, PATCH**2)


def unfold(patches: jax.Array) -> jax.Array:
    """Inverse of :func:`fold`."""
    *leading, rows, columns, _ = patches.shape
    frames = patches.reshape(*leading, rows, columns, PATCH, PATCH).swapaxes(-3, -2)
    return frames.reshape(*leading, rows * PATCH, columns * PATCH)


def baselines(train: np.ndarray, test: np.ndarray) -> dict[str, Metrics]:
    """Returns the test metrics of four predictions that need no network."""
    before, last, targets = test[:, :-2], test[:, 1:-1], test[:, 2:]
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
        name: {"mse": float(np.mean(np.square(predicted - targets)))}
        for name, predicted in predictions.items()
    }


def fit_linear(films: np.ndarray) -> np.ndarray:
    """Fits a linear map from a pixel's :func:`neighbourhoods` to its next value."""
    gram, moment = 0.0, 0.0
    for film in films:
        inputs = neighbourhoods(film).astype(np.float64)
        inputs = inputs.reshape(-1, inputs.shape[-1])
        gram += inputs.T @ inputs
        moment += inputs.T @ film[2:].reshape(-1)
    return np.linalg.lstsq(gram, moment)[0].astype(np.float32)


def neighbourhoods(film: np.ndarray) -> np.ndarray:
    """Returns the 5 x 5 pixels around each pixel in two frames, and a 1: (T - 2, ..., 51)."""
    padded = np.pad(film, [(0, 0), (REACH, REACH), (REACH, REACH)])
    side = 2 * REACH + 1
    pixels = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    pixels = pixels.reshape(*film.shape, side**2)
    return np.concatenate([pixels[:-2], pixels[1:-1], np.ones_like(film[2:, ..., None])], axis=-1)
