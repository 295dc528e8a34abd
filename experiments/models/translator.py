"""The network of the translation task: recurrent encoder and decoder, attention between them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.beam_search import Beam, beam_search
from experiments.models.recurrent import recurrent_layers
from experiments.task import Array, Params


class Memory(NamedTuple):
    """What the decoder looks at: of each source its places' keys, values, and which are there.

    Attributes:
        keys: (*batch, S, H), what a query is compared with.
        values: (*batch, S, 2H), the encoder's outputs.
        is_there: (*batch, S), False where a source has ended.
    """

    keys: jax.Array
    values: jax.Array
    is_there: jax.Array


@dataclasses.dataclass(frozen=True)
class Translator:
    """A translator's structure, and the parameters that it begins with.

    Attributes:
        params: the initial parameters, a pytree.
        graph: the structure, as Flax takes it apart.
        streams: the network's own random keys, in whose place every call brings its own.
    """

    params: Params
    graph: nnx.GraphDef
    streams: nnx.State

    def logits(
        self,
        params: Params,
        source: Array,
        lengths: Array,
        read: Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """What follows each place of a target that is known.

        Args:
            params: parameters like the initial ones.
            source: (N, S) symbols.
            lengths: (N,), of the sources.
            read: (N, T) symbols of the target, the begin symbol first.
            key: a random key for dropout; without one there is none.

        Returns:
            Logits (N, T, symbols), and the attention (N, T, S) that each place paid to each place
            of the source.
        """
        network = nnx.merge(self.graph, params, self.streams)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        memory = network.encode(jnp.asarray(source), jnp.asarray(lengths), rngs)
        logits, attention, _ = network.decode(memory, jnp.asarray(read), None, rngs)
        return logits, attention

    def translate(
        self,
        params: Params,
        source: Array,
        lengths: Array,
        *,
        beams: int,
        longest: int,
        begin: int,
        end: int,
    ) -> Beam:
        """The likeliest targets of sources (N, S), as :func:`beam_search` finds them."""
        network = nnx.merge(self.graph, params, self.streams)
        number = len(source)
        memory = network.encode(jnp.asarray(source), jnp.asarray(lengths), None)
        # All hypotheses of a search look at the same source.
        memory = jax.tree.map(lambda leaf: leaf[:, None], memory)
        first = jnp.full((number, beams, 1), begin)
        _, _, states = jax.eval_shape(lambda: network.decode(memory, first, None, None))
        states = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), states)

        def next_log_probabilities(states: Any, symbols: jax.Array) -> tuple[jax.Array, Any]:
            logits, _, states = network.decode(memory, symbols[..., None], states, None)
            return jax.nn.log_softmax(logits[..., 0, :]), states

        return beam_search(
            next_log_probabilities,
            states,
            number=number,
            beams=beams,
            length=longest,
            begin=begin,
            end=end,
        )


def build_translator(
    config: ModelConfig, source_symbols: int, target_symbols: int, *, seed: int
) -> Translator:
    """Draws a translator between so many symbols, whose embeddings are as wide as a state."""
    network = _Network(config, source_symbols, target_symbols, rngs=nnx.Rngs(seed))
    graph, params, streams = nnx.split(network, nnx.Param, ...)
    return Translator(params, graph, streams)


def smoothed_cross_entropy(logits: jax.Array, right: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy against `smoothing` spread over all symbols and the rest on the right one.

    Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    on_right = optax.softmax_cross_entropy_with_integer_labels(logits, right)
    return (1 - smoothing) * on_right - smoothing * log_probabilities.mean(axis=-1)


class _Network(nnx.Module):
    """The decoder has two layers, and the attention between them.

    What the lower one has read of the target asks the source (scaled product, Luong et al. 2015,
    arXiv 1508.04025, "general"); the upper one reads the answers, and so knows what was asked
    before. As no answer goes back into the lower layer, each layer runs over all steps at once.
    """

    def __init__(
        self, config: ModelConfig, source_symbols: int, target_symbols: int, *, rngs: nnx.Rngs
    ):
        width = config.hidden_size
        small = nnx.initializers.normal(width**-0.5)
        self.source = nnx.Embed(source_symbols, width, embedding_init=small, rngs=rngs)
        self.target = nnx.Embed(target_symbols, width, embedding_init=small, rngs=rngs)
        self.encoder = recurrent_layers(config, width, bidirectional=True, rngs=rngs)
        seen = self.encoder.out_features
        self.key = nnx.Linear(seen, width, use_bias=False, rngs=rngs)
        self.lower = recurrent_layers(config, width, rngs=rngs)
        self.upper = recurrent_layers(config, width + seen, rngs=rngs)
        self.readout = nnx.Linear(width + seen, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(target_symbols))
        self.dropout = nnx.Dropout(config.dropout)

    def encode(self, source: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None) -> Memory:
        options: Any = {"deterministic": rngs is None, "rngs": rngs}
        embedded = self.dropout(self.source(source), **options)
        values = self.dropout(self.encoder(embedded, seq_lengths=lengths, **options), **options)
        is_there = jnp.arange(source.shape[1])[None] < lengths[:, None]
        return Memory(self.key(values), values, is_there)

    def decode(
        self, memory: Memory, read: jax.Array, carry: Any, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array, Any]:
        options: Any = {"deterministic": rngs is None, "rngs": rngs}
        lower, upper = (None, None) if carry is None else carry
        embedded = self.dropout(self.target(read), **options)
        lower, asked = self.lower(embedded, initial_carry=lower, return_carry=True, **options)
        scores = asked @ memory.keys.swapaxes(-1, -2) * asked.shape[-1] ** -0.5
        attention = jax.nn.softmax(jnp.where(memory.is_there[..., None, :], scores, -1e9))
        answers = attention @ memory.values
        heard = self.dropout(jnp.concatenate([asked, answers], axis=-1), **options)
        upper, hidden = self.upper(heard, initial_carry=upper, return_carry=True, **options)
        shown = jnp.tanh(self.readout(jnp.concatenate([hidden, answers], axis=-1)))
        shown = self.dropout(shown, **options)
        logits = self.target.attend(shown)
        logits += jnp.broadcast_to(self.bias[...], logits.shape)
        return logits, attention, (lower, upper)
