"""The network of every task: recurrent layers, dropout and a linear readout."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

import gru_jax
from experiments.config import ModelConfig
from experiments.task import Array, Params
from gru_jax import dropout as regularize
from gru_jax import initializers, nn

Readout = Literal["every step", "last step"]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network's structure, and the parameters that it begins with.

    Attributes:
        params: the initial parameters, a pytree.
        graph: the structure, as Flax takes it apart.
        streams: the network's own random keys, in whose place every call brings its own.
        dropconnect: the rate at which recurrent weights are zeroed in training.
    """

    params: Params
    graph: nnx.GraphDef
    streams: nnx.State
    dropconnect: float

    def apply(
        self,
        params: Params,
        inputs: Array,
        *,
        lengths: Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the network on sequences.

        DropConnect zeroes weights of `w_h`, the same for all steps and sequences of a batch
        (Wan et al. 2013; on recurrent weights, Merity et al. 2018, arXiv 1708.02182, section 2).

        Args:
            params: parameters like the initial ones.
            inputs: (batch, T, in_features).
            lengths: (batch,), where sequences are shorter than T.
            key: a random key for dropout and DropConnect; without one there is neither.

        Returns:
            (batch, T, out_features), or (batch, out_features) where the last step is read out.
        """
        return self.run(params, inputs, lengths=lengths, key=key)[0]

    def run(
        self,
        params: Params,
        inputs: Array,
        *,
        carry: Any = None,
        lengths: Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Runs the network on sequences that go on from others.

        Args:
            params, inputs, lengths, key: as for :meth:`apply`.
            carry: the states that :meth:`run` returned of what came before; None: nothing did.

        Returns:
            What :meth:`apply` returns, and the states after the last step.
        """
        if key is not None and self.dropconnect:
            params = self.drop_recurrent_weights(params, jax.random.fold_in(key, 1))
        lengths = None if lengths is None else jnp.asarray(lengths)
        network = self._merge(params)
        return network(jnp.asarray(inputs), lengths, key, carry=carry)

    def initial_carry(self, inputs: Array | jax.ShapeDtypeStruct) -> Any:
        """Zeros for the states of :meth:`run` on inputs like these (or their shapes)."""
        carry = jax.eval_shape(lambda inputs: self.run(self.params, inputs)[1], inputs)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)

    def drop_recurrent_weights(self, params: Params, key: jax.Array) -> Params:
        """Returns parameters in which a share of every layer's recurrent weights is zero."""
        leaves, structure = jax.tree.flatten_with_path(params)
        keys = jax.random.split(key, len(leaves))

        def drop(path: jax.tree_util.KeyPath, leaf: jax.Array, key: jax.Array) -> jax.Array:
            recurrent = "['w_h']" in jax.tree_util.keystr(path)
            return regularize.dropout(key, leaf, self.dropconnect) if recurrent else leaf

        dropped = [drop(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, dropped)

    def first_cell(self, params: Params) -> gru_jax.Cell:
        """Returns the cell of the first layer that reads forward."""
        return self._merge(params).recurrent.layers[0][0].params

    def stack(self, params: Params) -> gru_jax.Stack:
        """Returns the recurrent layers as the library's functions take them."""
        return self._merge(params).recurrent.stack

    def readout(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """Returns the readout's kernel (features, out_features) and bias (out_features,)."""
        layer = self._merge(params).readout
        return layer.kernel[...], layer.bias[...]

    @property
    def reads_last_step(self) -> bool:
        """Whether the readout sees each direction's last state, and not every step."""
        return self._merge(self.params).reads_last_step

    @property
    def num_cells(self) -> int:
        """How many cells the recurrent layers have, in all directions."""
        return sum(map(len, self._merge(self.params).recurrent.layers))

    def read_out(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Returns what the readout makes of hidden states (..., H), without dropout."""
        return self._merge(params).readout(hidden)

    def _merge(self, params: Params) -> Any:
        return nnx.merge(self.graph, params, self.streams)


def build_network(
    config: ModelConfig, in_features: int, out_features: int, *, readout: Readout, seed: int
) -> Network:
    """Draws a network.

    Args:
        config: cell, sizes and dropout.
        in_features: features of an input.
        out_features: outputs of the readout.
        readout: at "every step", or from each direction's state after the "last step" it reads.
        seed: seed of the parameters.
    """
    network = _Network(config, in_features, out_features, readout, rngs=nnx.Rngs(seed))
    graph, params, streams = nnx.split(network, nnx.Param, ...)
    return Network(params, graph, streams, config.dropconnect)


def recurrent_layers(
    config: ModelConfig, in_features: int, *, bidirectional: bool = False, rngs: nnx.Rngs
) -> nn.GRU | nn.LSTM | nn.RNN:
    """Draws the recurrent layers that a config describes; their direction is the caller's."""
    options: dict[str, Any] = {
        "num_layers": config.num_layers,
        "bidirectional": bidirectional,
        "dropout": config.dropout,
        "rngs": rngs,
    }
    keeps: Any = {}
    if config.time_scales is not None:
        gate = {"gru": "update_bias", "lstm": "forget_bias", "rnn": None}[config.cell]
        biases = initializers.chrono_bias(config.time_scales, config.hidden_size)
        keeps = {gate: biases} if gate else {}
    match config.cell:
        case "gru":
            return nn.GRU(in_features, config.hidden_size, reset=config.reset, **keeps, **options)
        case "lstm":
            return nn.LSTM(in_features, config.hidden_size, **keeps, **options)
        case "rnn":
            return nn.RNN(in_features, config.hidden_size, **options)


class _Network(nnx.Module):
    def __init__(
        self,
        config: ModelConfig,
        in_features: int,
        out_features: int,
        readout: Readout,
        *,
        rngs: nnx.Rngs,
    ):
        self.recurrent = recurrent_layers(
            config, in_features, bidirectional=config.bidirectional, rngs=rngs
        )
        self.dropout = nnx.Dropout(config.dropout)
        self.readout = nnx.Linear(self.recurrent.out_features, out_features, rngs=rngs)
        self.reads_last_step = readout == "last step"

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        key: jax.Array | None,
        *,
        carry: Any = None,
    ) -> tuple[jax.Array, Any]:
        deterministic = key is None
        rngs = None if key is None else nnx.Rngs(dropout=key)
        carry, hidden = self.recurrent(
            inputs,
            initial_carry=carry,
            seq_lengths=lengths,
            return_carry=True,
            deterministic=deterministic,
            rngs=rngs,
        )
        if self.reads_last_step:
            hidden = self._last_hidden(carry)
        shown = self.dropout(hidden, deterministic=deterministic, rngs=rngs)
        return self.readout(shown), carry

    def _last_hidden(self, carry: Any) -> jax.Array:
        cells = self.recurrent.layers[-1]
        top = carry if len(self.recurrent.layers) == 1 else carry[-1]
        states = top if len(cells) > 1 else (top,)
        outputs = [cell.params.output(state) for cell, state in zip(cells, states, strict=True)]
        return jnp.concatenate(outputs, axis=-1)
