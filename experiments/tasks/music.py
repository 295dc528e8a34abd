"""Polyphonic music: prediction of the 88 piano keys, on JSB Chorales and Nottingham."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
import scipy.special
from sklearn.linear_model import LogisticRegression

from experiments import plots
from experiments.batches import shuffled_batches
from experiments.datasets import registry
from experiments.errors import UserError
from experiments.evaluation import mean_over_rows
from experiments.export_spec import PrePost, make_export_spec
from experiments.models.recurrent import Network, build_network
from experiments.task import Task
from experiments.tasks.configs import MusicConfig as Config
from experiments.typing import Array, LossFunction, Metrics, Params, Split

KEYS = 88
LOWEST_NOTE = 21
REGRESSION_COSTS = (0.1, 0.3, 1.0)
"""Inverse penalties of the logistic regression, from which the validation metric chooses."""
FILE_KEYS = {"train": "traindata", "validation": "validdata", "test": "testdata"}

Piece = np.ndarray


class Pieces(NamedTuple):
    """Padded pieces: frames (N, T, 88) of 0 and 1, and lengths (N,) in frames."""

    frames: Array
    lengths: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to the data set in `data_dir`.

    Raises:
        UserError: the file is absent or corrupted.
    """
    path = registry.data_path(config.data_file, config.dataset, data_dir)
    pieces = read_pieces(path)
    train = pad(split_pieces(pieces["train"], config.longest))
    splits: dict[Split, Pieces] = {
        "validation": pad(pieces["validation"]),
        "test": pad(pieces["test"]),
    }
    network = build_network(config.model, KEYS, KEYS, readout="every step", seed=config.seed)
    batches = shuffled_batches(config.seed, len(train.lengths), config.training.batch_size)

    def batch_at(step: int) -> Pieces:
        chosen = batches(step)
        return Pieces(train.frames[chosen], train.lengths[chosen])

    loss = make_loss(network)
    means = jax.jit(lambda params, batch: {"nll_per_frame": loss(params, batch, None)[0]})

    def num_frames(batch: Pieces) -> jax.Array:
        return jnp.sum(batch.lengths - 1)

    def evaluate(params: Params, split: Split) -> Metrics:
        return mean_over_rows(means, params, splits[split], weight=num_frames)

    def plot(params: Params, directory: Path) -> None:
        piece = pieces["test"][0][:200].astype(np.float32)
        predicted = np.asarray(jax.nn.sigmoid(network.apply(params, piece[None, :-1])[0]))
        title = f"First test piece of {path.stem}, and the prediction of each frame"
        plots.piano_roll(piece[1:], predicted, LOWEST_NOTE, title, directory / "piano_roll.png")

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels={"nll_per_frame": "NLL per frame (nats)"},
        loss_metric="nll_per_frame",
        monitor="nll_per_frame",
        baselines=partial(baselines, **pieces),
        plot=plot,
        batch_weight=num_frames,
        export_spec=make_export_spec(
            network, PrePost(), ("batch", "time", KEYS), ("batch", "time", KEYS), lengths=True
        ),
    )


def make_loss(network: Network) -> LossFunction:
    """Returns the loss: the negative log-likelihood per frame, in nats, given earlier frames."""

    def loss(
        params: Params, batch: Pieces, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        frames = jnp.asarray(batch.frames, jnp.float32)
        inputs, targets = frames[:, :-1], frames[:, 1:]
        lengths = batch.lengths - 1
        logits = network.apply(params, inputs, lengths=lengths, key=key)
        nll = jnp.sum(jax.nn.softplus(logits) - targets * logits, axis=-1)
        is_valid = jnp.arange(nll.shape[1])[None, :] < lengths[:, None]
        return jnp.sum(nll, where=is_valid) / jnp.sum(lengths).astype(nll.dtype), {}

    return loss


def read_pieces(path: Path) -> dict[str, list[Piece]]:
    """Reads the splits of a .mat file: each piece (frames, 88), uint8, 1 where a key sounds.

    Raises:
        UserError: an invalid file, or an invalid piece in it.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=list(FILE_KEYS.values()))
    # SciPy's reader raises errors of many types for a corrupted file.
    except Exception as error:
        raise UserError(f"{path} is not a readable .mat file: {error}.") from None
    splits = {}
    for split, key in FILE_KEYS.items():
        if key not in content:
            raise UserError(f"{path} has no {key}, the pieces of the {split} split.")
        pieces = [
            _check_piece(piece, f"{path}, {key}[{n}]") for n, piece in enumerate(content[key].flat)
        ]
        if not pieces:
            raise UserError(f"{path} has no piece in {key}.")
        splits[split] = pieces
    return splits


def _check_piece(piece: np.ndarray, where: str) -> Piece:
    if piece.ndim != 2 or piece.shape[1] != KEYS or len(piece) < 2:
        raise UserError(
            f"{where} has shape {piece.shape}, but a piece is (frames, {KEYS}) "
            "with two frames or more."
        )
    if piece.dtype.kind not in "buif" or not np.isin(piece, (0, 1)).all():
        invalid = piece[~np.isin(piece, (0, 1))]
        raise UserError(f"{where} holds {invalid.flat[0]}, but every key of a frame is 0 or 1.")
    return piece.astype(np.uint8)


def split_pieces(pieces: list[Piece], longest: int) -> list[Piece]:
    """Splits pieces into segments of at most `longest` frames that overlap by one frame.

    Every frame but a piece's first is thus still predicted exactly once.
    """
    step = longest - 1
    return [
        piece[begin : begin + longest]
        for piece in pieces
        for begin in range(0, len(piece) - 1, step)
    ]


def pad(pieces: list[Piece]) -> Pieces:
    """Pads pieces with zeros to the length of the longest."""
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    frames = np.zeros((len(pieces), lengths.max(), KEYS), np.uint8)
    for row, piece in zip(frames, pieces, strict=True):
        row[: len(piece)] = piece
    return Pieces(frames, lengths)


def baselines(train: list[Piece], validation: list[Piece], test: list[Piece]) -> dict[str, Metrics]:
    """Returns the test metrics of three simple models, over the frames the network predicts.

    In the unigram model, the probability of a key is its frequency in training. In the Markov
    model it depends on whether the same key sounds in the previous frame. A logistic regression of
    each key reads all keys of the last two frames; its penalty is the best by the validation
    metric.
    """
    previous = np.concatenate([piece[:-1] for piece in train])
    following = np.concatenate([piece[1:] for piece in train])
    unigram = key_frequencies(np.concatenate(train))
    after_sound, after_silence = (key_frequencies(following, previous == state) for state in (1, 0))
    inputs = np.concatenate([piece[:-1] for piece in test])
    targets = np.concatenate([piece[1:] for piece in test])
    return {
        "unigram": {"nll_per_frame": frame_nll(targets, unigram)},
        "Markov chain per key": {
            "nll_per_frame": frame_nll(targets, np.where(inputs, after_sound, after_silence))
        },
        "logistic regression": {"nll_per_frame": regression_nll(train, validation, test)},
    }


def regression_nll(train: list[Piece], validation: list[Piece], test: list[Piece]) -> float:
    """Returns the test NLL per frame of a logistic regression of each key on the last frames."""
    inputs, targets = last_frames(train)
    # Most frames occur many times: equal ones are fitted to once, by their number.
    distinct, position = np.unique(inputs, axis=0, return_inverse=True)
    position = position.ravel()
    count = np.bincount(position)
    sounding = np.stack([np.bincount(position, key) for key in targets.T], axis=1)

    def fit(cost: float) -> tuple[np.ndarray, np.ndarray]:
        fitted = [fit_key(distinct, count, of_key, cost) for of_key in sounding.T]
        weights, biases = zip(*fitted, strict=True)
        return np.stack(weights, axis=1), np.array(biases)

    def nll(pieces: list[Piece], model: tuple[np.ndarray, np.ndarray]) -> float:
        inputs, targets = last_frames(pieces)
        probability = scipy.special.expit(inputs @ model[0] + model[1])
        return frame_nll(targets, probability)

    models = [fit(cost) for cost in REGRESSION_COSTS]
    return nll(test, min(models, key=lambda model: nll(validation, model)))


def last_frames(pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two frames before each predicted frame, (N, 2 * 88), and that frame, (N, 88)."""
    inputs = [
        np.concatenate([np.pad(piece, ((1, 0), (0, 0)))[:-2], piece[:-1]], axis=1)
        for piece in pieces
    ]
    return np.concatenate(inputs), np.concatenate([piece[1:] for piece in pieces])


def fit_key(
    inputs: np.ndarray, count: np.ndarray, sounding: np.ndarray, cost: float
) -> tuple[np.ndarray, float]:
    """Returns weights and bias of a key that sounds after ``sounding`` of ``count`` inputs."""
    total, ones = count.sum(), sounding.sum()
    if ones in (0, total):
        return np.zeros(inputs.shape[1]), float(np.log((ones + 0.5) / (total - ones + 0.5)))
    labels = np.repeat([0, 1], len(inputs))
    number = np.concatenate([count - sounding, sounding])
    rows = np.concatenate([inputs, inputs])
    occurs = number > 0
    model = LogisticRegression(C=cost, max_iter=1000)
    model.fit(rows[occurs], labels[occurs], number[occurs])
    return model.coef_[0], float(np.ravel(model.intercept_)[0])


def key_frequencies(frames: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    """Returns the fraction of the selected frames in which each key sounds, (88,).

    Additive smoothing of 1/2 keeps unseen events possible (Krichevsky & Trofimov 1981).
    """
    where = np.broadcast_to(where, frames.shape)
    return (np.sum(frames, axis=0, where=where) + 0.5) / (np.sum(where, axis=0) + 1)


def frame_nll(targets: np.ndarray, probability: np.ndarray) -> float:
    """Returns the negative log-likelihood of frames (N, 88), in nats, summed over the keys."""
    nll = -np.log(np.where(targets, probability, 1 - probability))
    return float(nll.sum(axis=1).mean())
