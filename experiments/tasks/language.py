"""A character language model on Shakespeare or any text, trained by truncated BPTT."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.evaluation import on_one_device
from experiments.export_spec import OneHot, make_export_spec
from experiments.files import write_atomically
from experiments.models.recurrent import Network, build_network
from experiments.task import Task
from experiments.tasks.configs import LanguageConfig as Config
from experiments.typing import Array, Metrics, Params, Split

VALIDATION_FROM, TEST_FROM = 0.9, 0.95
# Characters of a validation or test split, at least.
SHORTEST = 3
# The n-gram baseline has an int64 for each n-gram: at most seven symbols of eight bits.
MAX_SYMBOLS = 256
ORDERS = range(2, 8)


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
        # One long stream.
        nats = float(cross_entropy(on_one_device(params), splits[split]))
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
    if min(second - first, len(text) - second) < SHORTEST:
        raise UserError(
            f"{path} has {len(text)} characters, but should have more: 5 % of them are the test "
            f"split, which needs {SHORTEST} or more."
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
    """Returns the test metrics of two n-gram models, over the characters the network predicts.

    Both are fitted to the training split. The order of the Kneser-Ney model is that of the least
    validation metric.
    """
    train, test = splits["train"], splits["test"]
    # Add-one smoothing: unseen characters stay possible.
    unigram = np.bincount(train, minlength=size) + 1
    order = min(ORDERS, key=lambda n: bits(kneser_ney(train, splits["validation"], n, size)))
    return {
        "unigram": {"bits_per_character": bits(unigram[test] / unigram.sum())},
        f"{order}-gram, Kneser-Ney": {
            "bits_per_character": bits(kneser_ney(train, test, order, size))
        },
    }


def bits(probability: np.ndarray) -> float:
    """Returns the bits per character, without the first one, which is given."""
    return float(-np.log2(probability[1:]).mean())


def kneser_ney(train: np.ndarray, text: np.ndarray, order: int, size: int) -> np.ndarray:
    """Returns the probability of each character of a text given those before it, (N,).

    This is the n-gram model with interpolated, modified Kneser-Ney smoothing of Chen & Goodman
    1999. The probability of a character w after a context v is

        (c(v w) - D(c(v w)) + P(w | v') * sum over x of D(c(v x))) / sum over x of c(v x)

    where v' is v without its first character. At the highest order, c is the count of an n-gram in
    training. At a lower order it is the number of different characters before the n-gram. The
    recursion ends at uniform probabilities. Where the text has fewer than n - 1 characters before
    a character, the context is all of them.

    Args:
        train: the text to fit to, of characters 0 to size - 1.
        text: the text to evaluate.
        order: length n of an n-gram.
        size: number of characters of the alphabet.
    """
    probability = np.full(len(text), 1 / size)
    for length in range(1, min(order, len(text)) + 1):
        if length == order:
            ngrams, counts = np.unique(_ngrams(train, length, size), return_counts=True)
        else:
            longer = np.unique(_ngrams(train, length + 1, size))
            ngrams, counts = np.unique(longer % size**length, return_counts=True)
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        contexts, first = np.unique(ngrams // size, return_index=True)
        totals, reserved = np.add.reduceat(counts, first), np.add.reduceat(discounts, first)
        predicted = _ngrams(text, length, size)
        kept = _look_up(ngrams, counts - discounts, predicted)
        total = _look_up(contexts, totals, predicted // size)
        # A context that training lacks leaves the lower order as it is.
        lower = probability[length - 1 :]
        backed_off = kept + _look_up(contexts, reserved, predicted // size) * lower
        probability[length - 1 :] = np.where(total > 0, backed_off / np.maximum(total, 1), lower)
    return probability


def _ngrams(text: np.ndarray, length: int, size: int) -> np.ndarray:
    """Returns each n-gram of a text as a number in base `size`, (N - length + 1,)."""
    digits = size ** np.arange(length - 1, -1, -1)
    return np.lib.stride_tricks.sliding_window_view(text, length) @ digits


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Returns the discounts of counts of 0, 1, 2, and 3 or more (Chen & Goodman 1999, eq. 26)."""
    n1, n2, n3, n4 = (max(1, int(np.sum(counts == count))) for count in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    # In a small text the estimates may be negative; every character has to stay possible.
    return np.maximum(discounts, [0, 0.1, 0.1, 0.1])


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the values of the wanted keys among sorted keys, and 0 for absent ones."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
