"""A character language model on Shakespeare or any text, the state carried over windows."""

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

from experiments.config import ExperimentConfig
from experiments.datasets import registry as data
from experiments.errors import UserError
from experiments.export_spec import OneHot, serving
from experiments.files import write_atomically
from experiments.models.recurrent import Network, build_network
from experiments.task import Array, Figures, Params, Split, Task

VALIDATION_FROM, TEST_FROM = 0.9, 0.95
# The baseline counts all there can be of three symbols: 134 MB.
MOST_SYMBOLS = 256
# Characters that the longest baseline reads before the one it predicts.
CONTEXT = 2


class Config(ExperimentConfig, frozen=True):
    """Predicts each character of a text from those before it."""

    task: Literal["language"] = "language"
    data_file: str | None = Field(
        default=None,
        description="A text in Shakespeare's place, UTF-8: the first 90 % are for training, the "
        "next 5 % for validation.",
    )
    window: int = Field(
        default=100, ge=1, description="Characters through which gradients go back."
    )
    sample: int = Field(default=600, ge=0, description="Characters that are drawn at the end.")

    @model_validator(mode="after")
    def check_direction(self) -> Self:
        """Refuses a model that would see the characters it is to predict."""
        if self.model.bidirectional:
            raise ValueError(
                "model.bidirectional is True, but should be False: "
                "a model that reads from the end has seen the character it is to predict."
            )
        return self


class Window(NamedTuple):
    """A piece of each stream: characters (N, window + 1), and whether a new pass begins."""

    characters: Array
    begins: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to Shakespeare in `data_dir`.

    Raises:
        UserError: if the file is absent or damaged, or too short for the batch.
    """
    if config.data_file is None:
        path = data.locate(data.DATA_SETS["shakespeare"].file, data_dir)
    else:
        path = Path(config.data_file)
    alphabet, parts = read_text(path)
    size = len(alphabet)
    network = build_network(config.model, size, size, readout="every step", seed=config.seed)
    streams = config.training.batch_size
    batch_at = partial(window_at, parts["train"], streams, config.window, config.seed)
    batch_at(0)

    def loss(
        params: Params, batch: Window, key: jax.Array | None, carry: Any
    ) -> tuple[jax.Array, Any]:
        read, following = batch.characters[:, :-1], batch.characters[:, 1:]
        carry = jax.tree.map(lambda h: jnp.where(batch.begins, jnp.zeros_like(h), h), carry)
        logits, carry = network.run(params, jax.nn.one_hot(read, size), carry=carry, key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, following)
        return losses.mean(), ({}, jax.lax.stop_gradient(carry))

    @jax.jit
    def evaluate(params: Params, part: jax.Array) -> jax.Array:
        logits = network.apply(params, jax.nn.one_hot(part[None, :-1], size))
        return optax.softmax_cross_entropy_with_integer_labels(logits, part[None, 1:]).mean()

    def figures(params: Params, split: Split) -> Figures:
        return {"bits_per_character": float(evaluate(params, parts[split])) / float(np.log(2))}

    def draw(params: Params, directory: Path) -> None:
        drawn = draw_text(network, params, parts["train"][:1], size, config.sample)
        write_atomically(directory / "sample.txt", "".join(alphabet[i] for i in drawn) + "\n")

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={"bits_per_character": "bits per character"},
        loss_figure="bits_per_character",
        monitor="bits_per_character",
        mode="min",
        baselines=lambda: baselines(parts, size),
        draw=draw,
        carry=network.initial_carry(
            jax.ShapeDtypeStruct((streams, config.window, size), jnp.float32)
        ),
        serving=serving(
            network, OneHot(size), ("batch", "time"), ("batch", "time", size), dtype="int32"
        ),
    )


def read_text(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Reads a text: the symbols of its training part in order of their codes, and its parts.

    Each part (N,), int32, says which of the symbols its characters are.

    Raises:
        UserError: if it is not UTF-8, too short, has too many symbols, or one in the validation or
            test part that the training part lacks; names it and its place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from None
    first, second = (round(share * len(text)) for share in (VALIDATION_FROM, TEST_FROM))
    if min(second - first, len(text) - second) <= CONTEXT:
        raise UserError(
            f"{path} has {len(text)} characters, but should have more: 5 % of them are the test, "
            f"which needs more than {CONTEXT}."
        )
    alphabet = "".join(sorted(set(text[:first])))
    if len(alphabet) > MOST_SYMBOLS:
        raise UserError(
            f"{path} has {len(alphabet)} different symbols, but should have {MOST_SYMBOLS} at most."
        )
    place = {symbol: index for index, symbol in enumerate(alphabet)}
    unknown = next((at for at, symbol in enumerate(text) if symbol not in place), None)
    if unknown is not None:
        raise UserError(
            f"{_place(path, text, unknown)}: the symbol {text[unknown]!r} is not in the training "
            f"part, the first {first:,} characters, whose {len(alphabet)} symbols are all that the "
            "model knows."
        )
    codes = np.array([place[symbol] for symbol in text], np.int32)
    return alphabet, {
        "train": codes[:first],
        "validation": codes[first:second],
        "test": codes[second:],
    }


def _place(path: Path, text: str, at: int) -> str:
    line, before = text.count("\n", 0, at) + 1, text.rfind("\n", 0, at)
    return f"{path}, line {line}, column {at - before}"


def window_at(text: np.ndarray, streams: int, window: int, seed: int, step: int) -> Window:
    """The window of a step: each stream reads its part of the text from end to end, pass by pass.

    A pass begins at a place of its own, drawn from (seed, pass), within the first window.

    Raises:
        UserError: where the text is too short for so many streams.
    """
    length = (len(text) - window) // streams
    per_pass = (length - 1) // window
    if per_pass < 1:
        raise UserError(
            f"training.batch_size is {streams} and window is {window}, but a text of {len(text)} "
            "characters has no such window for each sequence of a batch."
        )
    number, at = divmod(step, per_pass)
    shift = int(np.random.default_rng([seed, number]).integers(window))
    first = shift + np.arange(streams) * length + at * window
    characters = text[first[:, None] + np.arange(window + 1)]
    return Window(characters, np.asarray(at == 0))


def draw_text(
    network: Network, params: Params, first: np.ndarray, size: int, number: int
) -> list[int]:
    """Draws characters one by one, each from what the network predicts after those before it."""

    def one_hot(character: jax.Array) -> jax.Array:
        return jax.nn.one_hot(character, size)[None, None]

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        carry, character = state
        logits, carry = network.run(params, one_hot(character), carry=carry)
        following = jax.random.categorical(key, logits[0, 0])
        return (carry, following), following

    begin = jnp.asarray(first[0])
    keys = jax.random.split(jax.random.key(0), number)
    state = (network.initial_carry(one_hot(begin)), begin.astype(jnp.int32))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, state, keys)[1])()).tolist()


def baselines(parts: dict[str, np.ndarray], size: int) -> dict[str, Figures]:
    """Returns the test figures of two models that count."""
    # One is added, so that nothing is impossible.
    unigram = count_ngrams(parts["train"], 1, size) + 1
    trigram = count_ngrams(parts["train"], 3, size)
    return {
        "unigram": {"bits_per_character": bits(parts["test"], [unigram], [1.0])},
        "3-gram, interpolated": interpolated(parts, size, trigram, unigram),
    }


def count_ngrams(text: np.ndarray, order: int, size: int) -> np.ndarray:
    """How often each character follows each `order - 1` characters: (size ** (order - 1), size)."""
    context = np.zeros(len(text) - order + 1, np.int64)
    for place in range(order - 1):
        context = context * size + text[place : len(text) - order + 1 + place]
    counts = np.bincount(context * size + text[order - 1 :], minlength=size**order)
    return counts.reshape(-1, size)


def interpolated(
    parts: dict[str, np.ndarray], size: int, trigram: np.ndarray, unigram: np.ndarray
) -> Figures:
    """A weighted mean of the 3-gram, the 2-gram, the unigram and the uniform distribution.

    The weights are those most likely on the validation text, found by expectation maximisation
    (Jelinek & Mercer 1980).
    """
    models = [trigram, count_ngrams(parts["train"], 2, size), unigram, np.ones((1, size))]
    likelihoods = _likelihoods(parts["validation"], models)
    weights = np.full(len(models), 1 / len(models))
    for _ in range(50):
        shares = weights[:, None] * likelihoods
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return {"bits_per_character": bits(parts["test"], models, weights)}


def bits(text: np.ndarray, models: list[np.ndarray], weights: Array | list[float]) -> float:
    """Bits per character of a weighted mean of models, over all characters but the first two."""
    likelihood = np.asarray(weights) @ _likelihoods(text, models)
    return float(-np.log2(likelihood).mean())


def _likelihoods(text: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """What each model gives each character but the first two: (models, N - 2)."""
    rows = []
    for counts in models:
        size = counts.shape[1]
        context = np.zeros(len(text) - 2, np.int64)
        if len(counts) == size**2:
            context = text[:-2].astype(np.int64) * size + text[1:-1]
        elif len(counts) == size:
            context = text[1:-1].astype(np.int64)
        totals = np.maximum(counts.sum(axis=1), 1)
        rows.append(counts[context, text[2:]] / totals[context])
    return np.stack(rows)
