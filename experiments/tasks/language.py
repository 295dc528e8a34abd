"""A character language model on Shakespeare or any text, trained by truncated BPTT."""

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from experiments.config import UnidirectionalConfig
from experiments.datasets import registry
from experiments.errors import UserError
from experiments.export_spec import OneHot, make_export_spec
from experiments.files import write_atomically
from experiments.models.recurrent import Network, build_network
from experiments.task import Task
from experiments.typing import Array, Metrics, Params, Split

VALIDATION_FROM, TEST_FROM = 0.9, 0.95
# The trigram baseline has a table of MAX_SYMBOLS ** 3 counts: 134 MB.
MAX_SYMBOLS = 256
# Context of the trigram baseline, in characters.
CONTEXT = 2


class Config(UnidirectionalConfig, frozen=True):
    """Predicts each character of a text from those before it."""

    task: Literal["language"] = "language"
    data_file: str | None = Field(
        default=None,
        description="Your own text instead of Shakespeare, UTF-8. The first 90 % are for training, "
        "the next 5 % for validation.",
    )
    window: int = Field(default=100, ge=1, description="Characters per window of truncated BPTT.")
    sample: int = Field(default=600, ge=0, description="Characters to sample at the end.")


class Window(NamedTuple):
    """One window of each stream: characters (N, window + 1), and whether an epoch starts."""

    characters: Array
    is_start: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data file, or to Shakespeare in `data_dir`.

    Raises:
        UserError: the file is absent or corrupted, or too short for the batch.
    """
    path = registry.data_path(config.data_file, "shakespeare", data_dir)
    alphabet, splits = read_text(path)
    size = len(alphabet)
    network = build_network(config.model, size, size, readout="every step", seed=config.seed)
    streams = config.training.batch_size
    batch_at = partial(window_at, splits["train"], streams, config.window, config.seed)
    batch_at(0)

    def loss(
        params: Params, batch: Window, key: jax.Array | None, carry: Any
    ) -> tuple[jax.Array, Any]:
        inputs, targets = batch.characters[:, :-1], batch.characters[:, 1:]
        carry = jax.tree.map(lambda h: jnp.where(batch.is_start, jnp.zeros_like(h), h), carry)
        logits, carry = network.run(params, jax.nn.one_hot(inputs, size), carry=carry, key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return losses.mean(), ({}, jax.lax.stop_gradient(carry))

    @jax.jit
    def cross_entropy(params: Params, text: jax.Array) -> jax.Array:
        logits = network.apply(params, jax.nn.one_hot(text[None, :-1], size))
        return optax.softmax_cross_entropy_with_integer_labels(logits, text[None, 1:]).mean()

    def evaluate(params: Params, split: Split) -> Metrics:
        nats = float(cross_entropy(params, splits[split]))
        return {"bits_per_character": nats / float(np.log(2))}

    def plot(params: Params, directory: Path) -> None:
        sample = sample_text(network, params, splits["train"][:1], size, config.sample)
        write_atomically(directory / "sample.txt", "".join(alphabet[i] for i in sample) + "\n")

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels={"bits_per_character": "bits per character"},
        loss_metric="bits_per_character",
        monitor="bits_per_character",
        mode="min",
        baselines=lambda: baselines(splits, size),
        plot=plot,
        carry=network.initial_carry(
            jax.ShapeDtypeStruct((streams, config.window, size), jnp.float32)
        ),
        export_spec=make_export_spec(
            network, OneHot(size), ("batch", "time"), ("batch", "time", size), dtype="int32"
        ),
    )


def read_text(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Reads a text.

    Returns:
        The alphabet, which is the sorted symbols of the training split, and the splits: indices
        into the alphabet, (N,) int32.

    Raises:
        UserError: the text is not UTF-8, too short, has too many symbols, or a symbol in the
            validation or test split that the training split lacks.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from None
    first, second = (round(fraction * len(text)) for fraction in (VALIDATION_FROM, TEST_FROM))
    if min(second - first, len(text) - second) <= CONTEXT:
        raise UserError(
            f"{path} has {len(text)} characters, but should have more: 5 % of them are the test "
            f"split, which needs more than {CONTEXT}."
        )
    alphabet = "".join(sorted(set(text[:first])))
    if len(alphabet) > MAX_SYMBOLS:
        raise UserError(
            f"{path} has {len(alphabet)} different symbols, but should have {MAX_SYMBOLS} at most."
        )
    index_of = {symbol: index for index, symbol in enumerate(alphabet)}
    unknown = next((at for at, symbol in enumerate(text) if symbol not in index_of), None)
    if unknown is not None:
        raise UserError(
            f"{_position(path, text, unknown)}: the symbol {text[unknown]!r} is not in the "
            f"training split, the first {first:,} characters. The model's alphabet is the "
            f"{len(alphabet)} symbols of that split."
        )
    codes = np.array([index_of[symbol] for symbol in text], np.int32)
    return alphabet, {
        "train": codes[:first],
        "validation": codes[first:second],
        "test": codes[second:],
    }


def _position(path: Path, text: str, at: int) -> str:
    line, before = text.count("\n", 0, at) + 1, text.rfind("\n", 0, at)
    return f"{path}, line {line}, column {at - before}"


def window_at(text: np.ndarray, streams: int, window: int, seed: int, step: int) -> Window:
    """Returns the windows of a step: each stream is a contiguous segment of the text.

    Every epoch starts at another offset within the first window, sampled from (seed, epoch).

    Raises:
        UserError: the text is too short for so many streams.
    """
    length = (len(text) - window) // streams
    per_epoch = (length - 1) // window
    if per_epoch < 1:
        raise UserError(
            f"training.batch_size is {streams} and window is {window}, but a text of {len(text)} "
            "characters is too short for a window in each sequence of a batch."
        )
    epoch, index = divmod(step, per_epoch)
    offset = int(np.random.default_rng([seed, epoch]).integers(window))
    first = offset + np.arange(streams) * length + index * window
    characters = text[first[:, None] + np.arange(window + 1)]
    return Window(characters, np.asarray(index == 0))


def sample_text(
    network: Network, params: Params, first: np.ndarray, size: int, number: int
) -> list[int]:
    """Samples characters autoregressively."""

    def one_hot(character: jax.Array) -> jax.Array:
        return jax.nn.one_hot(character, size)[None, None]

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        carry, character = state
        logits, carry = network.run(params, one_hot(character), carry=carry)
        sampled = jax.random.categorical(key, logits[0, 0])
        return (carry, sampled), sampled

    begin = jnp.asarray(first[0])
    keys = jax.random.split(jax.random.key(0), number)
    state = (network.initial_carry(one_hot(begin)), begin.astype(jnp.int32))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, state, keys)[1])()).tolist()


def baselines(splits: dict[str, np.ndarray], size: int) -> dict[str, Metrics]:
    """Returns the test metrics of two n-gram models."""
    # Add-one smoothing: unseen characters stay possible.
    unigram = count_ngrams(splits["train"], 1, size) + 1
    trigram = count_ngrams(splits["train"], 3, size)
    return {
        "unigram": {"bits_per_character": bits(splits["test"], [unigram], [1.0])},
        "3-gram, interpolated": interpolated(splits, size, trigram, unigram),
    }


def count_ngrams(text: np.ndarray, order: int, size: int) -> np.ndarray:
    """Returns the counts of each character after each context: (size ** (order - 1), size)."""
    context = np.zeros(len(text) - order + 1, np.int64)
    for position in range(order - 1):
        context = context * size + text[position : len(text) - order + 1 + position]
    counts = np.bincount(context * size + text[order - 1 :], minlength=size**order)
    return counts.reshape(-1, size)


def interpolated(
    splits: dict[str, np.ndarray], size: int, trigram: np.ndarray, unigram: np.ndarray
) -> Metrics:
    """Interpolates the 3-gram, 2-gram, unigram and uniform distributions.

    The weights maximise the likelihood of the validation text; they are found by expectation
    maximisation (Jelinek & Mercer 1980).
    """
    models = [trigram, count_ngrams(splits["train"], 2, size), unigram, np.ones((1, size))]
    likelihoods = _likelihoods(splits["validation"], models)
    weights = np.full(len(models), 1 / len(models))
    for _ in range(50):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(axis=0)).mean(axis=1)
    return {"bits_per_character": bits(splits["test"], models, weights)}


def bits(text: np.ndarray, models: list[np.ndarray], weights: Array | list[float]) -> float:
    """Returns the bits per character of a mixture of models, without the first two characters."""
    likelihood = np.asarray(weights) @ _likelihoods(text, models)
    return float(-np.log2(likelihood).mean())


def _likelihoods(text: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """Returns each model's probability of each character but the first two: (models, N - 2)."""
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
