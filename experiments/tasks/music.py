"""Polyphonic music: predict which of a piano's 88 keys sound next, JSB Chorales and Nottingham."""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
from pydantic import Field, model_validator

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.datasets import registry as data
from experiments.errors import UserError
from experiments.export_spec import Ends, serving
from experiments.models.recurrent import Network, build_network
from experiments.task import Array, Figures, LossFunction, Params, Split, Task
from gru_jax import training

KEYS = 88
LOWEST_NOTE = 21
FILE_KEYS = {"train": "traindata", "validation": "validdata", "test": "testdata"}

Piece = np.ndarray


class Config(ExperimentConfig, frozen=True):
    """Predicts each frame of a piece from the frames before it."""

    task: Literal["music"] = "music"
    dataset: Literal["jsb", "nottingham"] = Field(default="jsb", description="Which pieces.")
    data_file: str | None = Field(
        default=None,
        description="A .mat file of pieces in their place: cells traindata, validdata and "
        "testdata of frames x 88 keys.",
    )
    longest: int = Field(
        default=200,
        ge=2,
        description="Frames after which a training piece is cut; others stay whole.",
    )

    @model_validator(mode="after")
    def check_direction(self) -> Self:
        """Refuses a model that would see the frames it is to predict."""
        if self.model.bidirectional:
            raise ValueError(
                "model.bidirectional is True, but should be False: "
                "a model that reads from the end has seen the frame it is to predict."
            )
        return self


class Pieces(NamedTuple):
    """Pieces padded to one length: frames (N, T, 88) of 0 and 1, and lengths (N,) in frames."""

    frames: Array
    lengths: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to the pieces in `data_dir`.

    Raises:
        UserError: if the file is absent or damaged.
    """
    if config.data_file is None:
        path = data.locate(data.DATA_SETS[config.dataset].file, data_dir)
    else:
        path = Path(config.data_file)
    pieces = read_pieces(path)
    train = pad(cut(pieces["train"], config.longest))
    splits: dict[Split, Pieces] = {
        "validation": pad(pieces["validation"]),
        "test": pad(pieces["test"]),
    }
    network = build_network(config.model, KEYS, KEYS, readout="every step", seed=config.seed)
    batches = training.ShuffledIndices(config.seed, len(train.lengths), config.training.batch_size)

    def batch_at(step: int) -> Pieces:
        chosen = batches(step)
        return Pieces(train.frames[chosen], train.lengths[chosen])

    loss = make_loss(network)
    evaluate = jax.jit(lambda params, batch: loss(params, batch, None)[0])

    def figures(params: Params, split: Split) -> Figures:
        return {"nll_per_frame": float(evaluate(params, splits[split]))}

    def draw(params: Params, directory: Path) -> None:
        piece = pieces["test"][0][:200].astype(np.float32)
        predicted = np.asarray(jax.nn.sigmoid(network.apply(params, piece[None, :-1])[0]))
        title = f"First test piece of {path.stem}, and each frame as predicted"
        roll = directory / "piano_roll.png"
        plots.piano_roll(piece[1:], predicted, LOWEST_NOTE, title, roll)

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={"nll_per_frame": "NLL per frame (nats)"},
        loss_figure="nll_per_frame",
        monitor="nll_per_frame",
        mode="min",
        baselines=partial(baselines, pieces["train"], pieces["test"]),
        draw=draw,
        serving=serving(
            network, Ends(), ("batch", "time", KEYS), ("batch", "time", KEYS), lengths=True
        ),
    )


def make_loss(network: Network) -> LossFunction:
    """Returns the loss: the negative log-likelihood of a frame, in nats, given those before it."""

    def loss(
        params: Params, batch: Pieces, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        frames = jnp.asarray(batch.frames, jnp.float32)
        known, target = frames[:, :-1], frames[:, 1:]
        predicted = batch.lengths - 1
        logits = network.apply(params, known, lengths=predicted, key=key)
        nll = jnp.sum(jax.nn.softplus(logits) - target * logits, axis=-1)
        counts = jnp.arange(nll.shape[1])[None, :] < predicted[:, None]
        return jnp.sum(nll, where=counts) / jnp.sum(predicted).astype(nll.dtype), {}

    return loss


def read_pieces(path: Path) -> dict[str, list[Piece]]:
    """Reads the splits of a .mat file: each piece (frames, 88), uint8, 1 where a key sounds.

    Raises:
        UserError: if it is not such a file, or a piece in it is not one.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=list(FILE_KEYS.values()))
    # SciPy's reader raises errors of many kinds for a damaged file.
    except Exception as error:
        raise UserError(f"{path} is not a readable .mat file: {error}.") from None
    splits = {}
    for split, key in FILE_KEYS.items():
        if key not in content:
            raise UserError(f"{path} has no {key}, the pieces of the {split} split.")
        pieces = [
            _checked(piece, f"{path}, {key}[{n}]") for n, piece in enumerate(content[key].flat)
        ]
        if not pieces:
            raise UserError(f"{path} has no piece in {key}.")
        splits[split] = pieces
    return splits


def _checked(piece: np.ndarray, where: str) -> Piece:
    if piece.ndim != 2 or piece.shape[1] != KEYS or len(piece) < 2:
        raise UserError(
            f"{where} has shape {piece.shape}, but a piece is (frames, {KEYS}) "
            "with two frames or more."
        )
    if piece.dtype.kind not in "buif" or not np.isin(piece, (0, 1)).all():
        strange = piece[~np.isin(piece, (0, 1))]
        raise UserError(f"{where} holds {strange.flat[0]}, but every key of a frame is 0 or 1.")
    return piece.astype(np.uint8)


def cut(pieces: list[Piece], longest: int) -> list[Piece]:
    """Cuts pieces so that none is longer; each part begins with the last frame before it.

    So every frame but a piece's first is still predicted once.
    """
    step = longest - 1
    return [
        piece[begin : begin + longest]
        for piece in pieces
        for begin in range(0, len(piece) - 1, step)
    ]


def pad(pieces: list[Piece]) -> Pieces:
    """Pads pieces with silence to the length of the longest."""
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    frames = np.zeros((len(pieces), lengths.max(), KEYS), np.uint8)
    for row, piece in zip(frames, pieces, strict=True):
        row[: len(piece)] = piece
    return Pieces(frames, lengths)


def baselines(train: list[Piece], test: list[Piece]) -> dict[str, Figures]:
    """Returns the test figures of two models that count, over the frames the network predicts.

    In the unigram model a key sounds as often as in training, whatever came before. In the Markov
    model that depends on whether the same key sounds in the frame before.
    """
    before = np.concatenate([piece[:-1] for piece in train])
    after = np.concatenate([piece[1:] for piece in train])
    ever = share_sounding(np.concatenate(train))
    after_sound, after_silence = (share_sounding(after, before == state) for state in (1, 0))
    known = np.concatenate([piece[:-1] for piece in test])
    target = np.concatenate([piece[1:] for piece in test])
    return {
        "unigram": {"nll_per_frame": frame_nll(target, ever)},
        "Markov chain per key": {
            "nll_per_frame": frame_nll(target, np.where(known, after_sound, after_silence))
        },
    }


def share_sounding(frames: np.ndarray, chosen: np.ndarray | bool = True) -> np.ndarray:
    """Returns the share of the chosen frames in which each key sounds, (88,).

    Half a frame is added to either outcome, so that nothing is impossible that never occurred.
    """
    chosen = np.broadcast_to(chosen, frames.shape)
    return (np.sum(frames, axis=0, where=chosen) + 0.5) / (np.sum(chosen, axis=0) + 1)


def frame_nll(target: np.ndarray, probability: np.ndarray) -> float:
    """Returns the negative log-likelihood of frames (N, 88), in nats, summed over the keys."""
    nll = -np.log(np.where(target, probability, 1 - probability))
    return float(nll.sum(axis=1).mean())
