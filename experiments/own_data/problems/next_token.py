"""Next-token: predicts each token of a text from those before it, by truncated BPTT.

Tokens are characters, pieces of a SentencePiece model, or integer ids.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.errors import UserError
from experiments.evaluation import on_one_device
from experiments.export_spec import ExportSpec, make_export_spec
from experiments.files import write_atomically
from experiments.models.recurrent import Network, build_network
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.examples import in_order_of_names
from experiments.own_data.model import Model, Predictions
from experiments.own_data.serving import TokenIndices
from experiments.own_data.splits import PARTS, Part, split_dataset
from experiments.own_data.tokens import Tokens, check_tokens, fit_tokens
from experiments.task import DataRecord, Task
from experiments.tasks.language import kneser_ney, window_at
from experiments.typing import Array, Metrics, Params, Split

LARGEST_EMBEDDING = 128
EVAL_WINDOW = 1024
"""Tokens of which the logits are in memory at once."""
SAMPLE = 300


class Text(NamedTuple):
    """All sequences of a part, one after the other.

    Attributes:
        tokens: (N,) int32.
        is_first: (N,), whether a token is the first of a sequence.
    """

    tokens: np.ndarray
    is_first: np.ndarray


class Window(NamedTuple):
    """A window of each stream.

    Attributes:
        tokens: (streams, T + 1) int32.
        is_first: (streams, T + 1), whether a token is the first of a sequence.
        is_start: whether the streams begin again.
    """

    tokens: Array
    is_first: Array
    is_start: Array


def build(config: SequencesConfig, dataset: Dataset) -> Task:
    """Binds a config to texts.

    Raises:
        UserError: the data are no texts, a bidirectional model, or too few tokens for a batch.
    """
    path = config.data.path
    if config.model.bidirectional:
        raise UserError(
            "model.bidirectional is True, but should be False for next-token: the model would see "
            "the tokens that it is to predict."
        )
    check_tokens(dataset, path)
    dataset = in_order_of_names(dataset)
    splits = split_dataset(dataset, config.data)
    tokens = fit_tokens(dataset, splits, config)
    texts: dict[Part, Text] = {part: _text(dataset, tokens, splits.spans[part]) for part in PARTS}
    for part, text in texts.items():
        if text.is_first.all():
            raise UserError(
                f"{path}: {part} has {len(text.tokens)} tokens in as many sequences, but should "
                "have more: there is nothing to predict."
            )
    metric = f"bits_per_{tokens.unit}"
    network = _network(config, tokens)
    streams, window = config.training.batch_size, config.window

    def batch_at(step: int) -> Window:
        of_tokens, of_flags = (
            window_at(array, streams, window, config.seed, step) for array in texts["train"]
        )
        return Window(of_tokens.characters, of_flags.characters, of_tokens.is_start)

    try:
        batch_at(0)
    except UserError:
        raise UserError(
            f"training.batch_size is {streams} and window is {window}, but the training part of "
            f"{path} has {len(texts['train'].tokens):,} tokens, which are too few for a window in "
            "each sequence of a batch."
        ) from None

    def loss(
        params: Params, batch: Window, key: jax.Array | None, carry: Any
    ) -> tuple[jax.Array, Any]:
        carry = jax.tree.map(lambda h: jnp.where(batch.is_start, jnp.zeros_like(h), h), carry)
        nats, count, carry = _nats(network, tokens, params, batch, carry, key)
        return nats / jnp.maximum(count, 1), ({}, jax.lax.stop_gradient(carry))

    nats_of = jax.jit(partial(_nats, network, tokens))

    def evaluate(params: Params, split: Split) -> Metrics:
        params = on_one_device(params)
        carry, total, number = _first_carry(network, 1, EVAL_WINDOW), [], []
        for batch in _windows(texts[split]):
            nats, count, carry = nats_of(params, batch, carry, None)
            total.append(nats)
            number.append(count)
        total, number = jax.device_get((total, number))
        return {metric: float(np.sum(total, dtype=float) / np.sum(number) / np.log(2))}

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels={metric: metric.replace("_", " ")},
        loss_metric=metric,
        monitor=metric,
        baselines=partial(_baselines, texts, tokens, metric),
        plot=partial(_sample, network, tokens, texts["train"]),
        batch_weight=_count,
        carry=_first_carry(network, streams, window),
        export_spec=_export_spec(network, tokens),
        data=DataRecord(
            (*dataset.notes, splits.sentence, *_described(tokens, texts)),
            {"tokens": tokens.to_json()},
        ),
    )


def restore(config: SequencesConfig, record: Mapping[str, Any], where: str) -> Model:
    """See :class:`experiments.own_data.model.Problem`."""
    tokens = Tokens.from_json(record.get("tokens", {}), where)
    network = _network(config, tokens)
    return Model(
        params=network.params,
        predict=partial(_predict, network, tokens),
        export_spec=_export_spec(network, tokens),
        carry=_first_carry(network, config.training.batch_size, config.window),
        batch_weight=_count,
    )


def _network(config: SequencesConfig, tokens: Tokens) -> Network:
    # The last class is of unknown tokens.
    return build_network(
        config.model,
        1,
        tokens.count + 1,
        readout="every step",
        seed=config.seed,
        embeddings=[(tokens.count, min(tokens.count, LARGEST_EMBEDDING))],
    )


def _first_carry(network: Network, streams: int, steps: int) -> Any:
    return network.initial_carry(jax.ShapeDtypeStruct((streams, steps, 1), jnp.float32))


def _nats(
    network: Network,
    tokens: Tokens,
    params: Params,
    batch: Window,
    carry: Any,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array, Any]:
    """Returns the sum of the cross entropies, the number of predicted tokens, and the states."""
    read, targets = jnp.asarray(batch.tokens)[:, :-1], jnp.asarray(batch.tokens)[:, 1:]
    logits, carry = network.run(
        params,
        TokenIndices(tokens.count).before(read),
        carry=carry,
        starts=jnp.asarray(batch.is_first)[:, :-1],
        key=key,
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses, where=~jnp.asarray(batch.is_first)[:, 1:]), _count(batch), carry


def _count(batch: Window) -> jax.Array:
    # The first token of a sequence is given.
    return jnp.sum(~jnp.asarray(batch.is_first)[:, 1:]).astype(jnp.float32)


def _text(dataset: Dataset, tokens: Tokens, spans: np.ndarray) -> Text:
    names = dataset.features[0].categories
    pieces = [
        tokens.encode(values[begin:end, 0], names)
        for values, (begin, end) in zip(dataset.inputs, spans, strict=True)
    ]
    pieces = [piece for piece in pieces if len(piece)]
    starts = np.cumsum([0, *map(len, pieces[:-1])])
    text = np.concatenate(pieces)
    is_first = np.zeros(len(text), bool)
    is_first[starts] = True
    return Text(text, is_first)


def _windows(text: Text) -> Iterator[Window]:
    """Yields all windows of a text, of one stream; the last is padded with first tokens."""
    number = len(text.tokens)
    padding = -(number - 1) % EVAL_WINDOW
    tokens = np.pad(text.tokens, (0, padding))
    is_first = np.pad(text.is_first, (0, padding), constant_values=True)
    for begin in range(0, number - 1, EVAL_WINDOW):
        chosen = slice(begin, begin + EVAL_WINDOW + 1)
        yield Window(tokens[None, chosen], is_first[None, chosen], np.asarray(begin == 0))


def _export_spec(network: Network, tokens: Tokens) -> ExportSpec:
    return make_export_spec(
        network,
        TokenIndices(tokens.count),
        ("batch", "time"),
        ("batch", "time", tokens.count + 1),
        dtype="int32",
        metadata={"tokens": tokens.to_json()},
    )


def _predict(network: Network, tokens: Tokens, params: Params, dataset: Dataset) -> Predictions:
    """Returns for each token its bits, and which token is the most probable after it."""
    check_tokens(dataset, "The data")
    names = dataset.features[0].categories

    @jax.jit
    def run(params: Params, read: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        logits, carry = network.run(params, TokenIndices(tokens.count).before(read), carry=carry)
        return jax.nn.log_softmax(logits), carry

    columns: dict[str, list[np.ndarray]] = {tokens.unit: [], "bits": [], "next": []}
    for values in dataset.inputs:
        read = tokens.encode(values[:, 0], names)
        padded = np.pad(read, (0, -len(read) % EVAL_WINDOW))
        carry, bits, following = _first_carry(network, 1, EVAL_WINDOW), [np.array([np.nan])], []
        for begin in range(0, len(read), EVAL_WINDOW):
            logs, carry = run(params, padded[None, begin : begin + EVAL_WINDOW], carry)
            logs = np.asarray(logs[0])[: len(read) - begin]
            targets = read[begin + 1 : begin + 1 + len(logs)]
            bits.append(-logs[np.arange(len(targets)), targets] / np.log(2))
            following.append(logs.argmax(axis=-1))
        columns[tokens.unit].append(tokens.names(read))
        columns["bits"].append(np.concatenate(bits))
        columns["next"].append(tokens.names(np.concatenate(following)))
    return Predictions({name: tuple(of) for name, of in columns.items()}, "step")


def _sample(network: Network, tokens: Tokens, train: Text, params: Params, directory: Path) -> None:
    """Writes tokens that are sampled from the model, after the first one of the training part."""
    indices = TokenIndices(tokens.count)

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        carry, token = state
        logits, carry = network.run(params, indices.before(token[None, None]), carry=carry)
        # Without unknown ones.
        sampled = jax.random.categorical(key, logits[0, 0, :-1]).astype(jnp.int32)
        return (carry, sampled), sampled

    keys = jax.random.split(jax.random.key(0), SAMPLE)
    state = (_first_carry(network, 1, 1), jnp.asarray(train.tokens[0]))
    sampled = np.asarray(jax.jit(lambda: jax.lax.scan(step, state, keys)[1])())
    write_atomically(directory / "sample.txt", tokens.decode(sampled) + "\n")


def _baselines(texts: Mapping[Part, Text], tokens: Tokens, metric: str) -> dict[str, Metrics]:
    """Returns the test metrics of the frequencies of tokens, and of pairs of tokens."""
    train, test = texts["train"], texts["test"]
    size = tokens.count + 1

    def bits(probability: np.ndarray) -> Metrics:
        return {metric: float(-np.log2(probability[~test.is_first]).mean())}

    # Add-one smoothing: tokens that the training part lacks stay possible.
    frequencies = np.bincount(train.tokens, minlength=size) + 1
    pairs = kneser_ney(train.tokens.astype(int), test.tokens.astype(int), 2, size)
    return {
        "unigram": bits(frequencies[test.tokens] / frequencies.sum()),
        "bigram, Kneser-Ney": bits(pairs),
    }


def _described(tokens: Tokens, texts: Mapping[Part, Text]) -> list[str]:
    unknown = {part: int(np.sum(text.tokens == tokens.count)) for part, text in texts.items()}
    found = [f"{count:,} in {part}" for part, count in unknown.items() if count]
    numbers = ", ".join(f"{len(texts[part].tokens):,}" for part in PARTS)
    return [
        f"There are {tokens.count:,} different {tokens.unit}s in the training part.",
        f"Train, validation and test have {numbers} {tokens.unit}s.",
        f"Unknown {tokens.unit}s: {', '.join(found) or 'none'}.",
    ]
