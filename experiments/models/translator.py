"""The network of the translation task: recurrent encoder and decoder, attention between them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.beam_search import Beam, beam_search
from experiments.models.recurrent import recurrent_layers, run_layers
from experiments.typing import Array, Params


class EncoderMemory(NamedTuple):
    """Inputs of the decoder's attention.

    Attributes:
        keys: (*batch, S, H).
        values: (*batch, S, 2H), the encoder's outputs.
        mask: (*batch, S), False at padding.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True)
class Translator:
    """Structure and initial parameters of a translator.

    Attributes:
        params: the initial parameters, a pytree.
        graphdef: the structure, from :func:`flax.nnx.split`.
        rng_state: the network's random keys; every call passes its own instead.
    """

    params: Params
    graphdef: nnx.GraphDef
    rng_state: nnx.State

    def logits(
        self,
        params: Params,
        source: Array,
        lengths: Array,
        decoder_inputs: Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits of each next symbol, given a target (teacher forcing).

        Args:
            params: parameters, of the structure of the initial ones.
            source: (N, S) symbols.
            lengths: (N,), of the sources.
            decoder_inputs: (N, T) symbols of the target, beginning with the begin symbol.
            key: a random key for dropout; None disables it.

        Returns:
            Logits (N, T, symbols), and attention weights (N, T, S).
        """
        network = self._merge(params)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        memory = network.encode(jnp.asarray(source), jnp.asarray(lengths), rngs)
        logits, attention, _ = network.decode(memory, jnp.asarray(decoder_inputs), None, rngs)
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
        """Returns the most probable targets of sources (N, S), found by :func:`beam_search`."""
        network = self._merge(params)
        num_searches = len(source)
        memory = network.encode(jnp.asarray(source), jnp.asarray(lengths), None)
        # All hypotheses of a search attend to the same source.
        memory = jax.tree.map(lambda leaf: leaf[:, None], memory)
        first = jnp.full((num_searches, beams, 1), begin)
        _, _, states = jax.eval_shape(lambda: network.decode(memory, first, None, None))
        states = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), states)

        def next_log_probabilities(states: Any, symbols: jax.Array) -> tuple[jax.Array, Any]:
            logits, _, states = network.decode(memory, symbols[..., None], states, None)
            return jax.nn.log_softmax(logits[..., 0, :]), states

        return beam_search(
            next_log_probabilities,
            states,
            num_searches=num_searches,
            beams=beams,
            length=longest,
            begin=begin,
            end=end,
        )

    def _merge(self, params: Params) -> Any:
        return nnx.merge(self.graphdef, params, self.rng_state)


def build_translator(
    config: ModelConfig, source_symbols: int, target_symbols: int, *, seed: int
) -> Translator:
    """Initialises a translator; embeddings have the size of the hidden state."""
    network = _Network(config, source_symbols, target_symbols, rngs=nnx.Rngs(seed))
    graphdef, params, rng_state = nnx.split(network, nnx.Param, ...)
    return Translator(params, graphdef, rng_state)


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7)."""
    log_probabilities = jax.nn.log_softmax(logits)
    of_labels = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - smoothing) * of_labels - smoothing * log_probabilities.mean(axis=-1)


class _Network(nnx.Module):
    """Encoder, and a decoder of two layers with attention between them.

    The outputs of the lower layer are the queries (dot product with a learned matrix, Luong et al.
    2015, arXiv 1508.04025, "general"). It is not divided by the root of the width: states of a new
    GRU are so small that attention would be flat for hundreds of steps. The upper layer takes
    queries and context vectors. The context is not fed back into the lower layer, so each layer
    runs over all steps at once.
    """

    def __init__(
        self, config: ModelConfig, source_symbols: int, target_symbols: int, *, rngs: nnx.Rngs
    ):
        width = config.hidden_size
        small = nnx.initializers.normal(width**-0.5)
        self.source = nnx.Embed(source_symbols, width, embedding_init=small, rngs=rngs)
        self.target = nnx.Embed(target_symbols, width, embedding_init=small, rngs=rngs)
        self.encoder = recurrent_layers(config, width, bidirectional=True, rngs=rngs)
        encoded = self.encoder.out_features
        self.key = nnx.Linear(encoded, width, use_bias=False, rngs=rngs)
        self.lower = recurrent_layers(config, width, rngs=rngs)
        self.upper = recurrent_layers(config, width + encoded, rngs=rngs)
        self.readout = nnx.Linear(width + encoded, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(target_symbols))
        self.dropout = nnx.Dropout(config.dropout)

    def encode(self, source: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None) -> EncoderMemory:
        options: Any = {"deterministic": rngs is None, "rngs": rngs}
        embedded = self.dropout(self.source(source), **options)
        _, values = run_layers(self.encoder, embedded, rngs, seq_lengths=lengths)
        values = self.dropout(values, **options)
        mask = jnp.arange(source.shape[1])[None] < lengths[:, None]
        return EncoderMemory(self.key(values), values, mask)

    def decode(
        self, memory: EncoderMemory, inputs: jax.Array, carry: Any, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array, Any]:
        options: Any = {"deterministic": rngs is None, "rngs": rngs}
        lower, upper = (None, None) if carry is None else carry
        embedded = self.dropout(self.target(inputs), **options)
        lower, queries = run_layers(self.lower, embedded, rngs, initial_carry=lower)
        scores = queries @ memory.keys.swapaxes(-1, -2)
        attention = jax.nn.softmax(jnp.where(memory.mask[..., None, :], scores, -1e9))
        context = attention @ memory.values
        attended = self.dropout(jnp.concatenate([queries, context], axis=-1), **options)
        upper, hidden = run_layers(self.upper, attended, rngs, initial_carry=upper)
        features = jnp.tanh(self.readout(jnp.concatenate([hidden, context], axis=-1)))
        features = self.dropout(features, **options)
        logits = self.target.attend(features)
        logits += jnp.broadcast_to(self.bias[...], logits.shape)
        return logits, attention, (lower, upper)
