"""The network of most tasks: recurrent layers, dropout and a linear readout."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

import gru_jax
from experiments.config import ModelConfig
from experiments.typing import Array, Params
from gru_jax import nn
from gru_jax.cells import CELLS
from gru_jax.dropout import dropout

Readout = Literal["every step", "last step"]
RECURRENT_WEIGHTS = re.compile(r"\['w_h'\]|\['dense_h'\]\['kernel'\]")
"""Paths of recurrent weights, in our cells and in Flax's GRU."""
CELL_OPTIONS = ("reset", "chrono_bias")
"""Fields of a model's config that not every cell has."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Structure and initial parameters of a network.

    Attributes:
        params: the initial parameters, a pytree.
        graphdef: the structure, from :func:`flax.nnx.split`.
        rng_state: the network's random keys; every call passes its own instead.
        dropconnect: the rate at which recurrent weights are zeroed in training.
    """

    params: Params
    graphdef: nnx.GraphDef
    rng_state: nnx.State
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

        DropConnect zeroes the same weights of `w_h` for all steps and sequences of a batch
        (Wan et al. 2013; on recurrent weights, Merity et al. 2018, arXiv 1708.02182, section 2).

        Args:
            params: parameters, of the structure of the initial ones.
            inputs: (batch, T, in_features).
            lengths: (batch,), where sequences are shorter than T.
            key: a random key for dropout and DropConnect; None disables both.

        Returns:
            (batch, T, out_features), or (batch, out_features) for a readout of the last step.
        """
        return self.run(params, inputs, lengths=lengths, key=key)[0]

    def run(
        self,
        params: Params,
        inputs: Array,
        *,
        carry: Any = None,
        lengths: Array | None = None,
        starts: Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Runs the network on chunks of sequences, with the state carried over.

        Args:
            params, inputs, lengths, key: as for :meth:`apply`.
            carry: the states returned for the previous chunk; None for the first.
            starts: (batch, T), whether the states are reset before a step is read.

        Returns:
            The outputs, as :meth:`apply`, and the states after the last step.
        """
        if key is not None and self.dropconnect:
            params = self.drop_recurrent_weights(params, jax.random.fold_in(key, 1))
        lengths = None if lengths is None else jnp.asarray(lengths)
        network = self._merge(params)
        return network(jnp.asarray(inputs), lengths, key, carry=carry, starts=starts)

    def initial_carry(self, inputs: Array | jax.ShapeDtypeStruct) -> Any:
        """Returns the zero states of :meth:`run` for inputs of this shape."""
        carry = jax.eval_shape(
            lambda params, inputs: self.run(params, inputs)[1], self.params, inputs
        )
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)

    def drop_recurrent_weights(self, params: Params, key: jax.Array) -> Params:
        """Returns the parameters with DropConnect applied to every layer's recurrent weights."""
        leaves, structure = jax.tree.flatten_with_path(params)
        keys = jax.random.split(key, len(leaves))

        def drop(path: jax.tree_util.KeyPath, leaf: jax.Array, key: jax.Array) -> jax.Array:
            recurrent = RECURRENT_WEIGHTS.search(jax.tree_util.keystr(path)) is not None
            return dropout(key, leaf, self.dropconnect) if recurrent else leaf

        dropped = [drop(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, dropped)

    def first_cell(self, params: Params) -> gru_jax.Cell:
        """Returns the forward cell of the first layer."""
        return self._merge(params).recurrent.layers[0][0].params

    def stack(self, params: Params) -> gru_jax.Stack:
        """Returns the recurrent layers as a :class:`gru_jax.Stack`."""
        return self._merge(params).recurrent.stack

    def readout(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """Returns the readout's kernel (features, out_features) and bias (out_features,)."""
        layer = self._merge(params).readout
        return layer.kernel[...], layer.bias[...]

    @property
    def reads_last_step(self) -> bool:
        """Whether the readout is of each direction's last state, not of every step."""
        return self._merge(self.params).reads_last_step

    @property
    def num_cells(self) -> int:
        """The number of cells of all layers and directions."""
        return sum(map(len, self._merge(self.params).recurrent.layers))

    def read_out(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Applies the readout to hidden states (..., H), without dropout."""
        return self._merge(params).readout(hidden)

    def embed(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Replaces indices of embedded categories in inputs (..., in_features) by embeddings."""
        return self._merge(params).embed(inputs)

    def embeddings(self, params: Params) -> list[jax.Array]:
        """Returns each embedding's table, (categories + 1, size), whose last row is zero."""
        embeddings = self._merge(params).embeddings
        return [_with_zeros(embed.embedding[...]) for embed in embeddings]

    def _merge(self, params: Params) -> Any:
        return nnx.merge(self.graphdef, params, self.rng_state)


def build_network(
    config: ModelConfig,
    in_features: int,
    out_features: int,
    *,
    readout: Readout,
    seed: int,
    embeddings: Sequence[tuple[int, int]] = (),
) -> Network:
    """Initialises a network.

    Args:
        config: cell, sizes and dropout.
        in_features: features of an input, with one for each embedding.
        out_features: features of an output.
        readout: of "every step", or of the state after each direction's "last step".
        seed: seed of the parameters.
        embeddings: the number of categories and the size of each embedding. The last features are
            the indices of their categories; the index after the last one is of none, a vector of
            zeros.
    """
    network = _Network(config, in_features, out_features, readout, embeddings, rngs=nnx.Rngs(seed))
    graphdef, params, rng_state = nnx.split(network, nnx.Param, ...)
    return Network(params, graphdef, rng_state, config.dropconnect)


def _with_zeros(table: jax.Array) -> jax.Array:
    return jnp.pad(table, ((0, 1), (0, 0)))


def cell_options(cell: str) -> list[str]:
    """Returns those of :data:`CELL_OPTIONS` that a cell's initialiser has."""
    available = inspect.signature(CELLS[cell].init).parameters
    return [name for name in CELL_OPTIONS if name in available]


def recurrent_layers(
    config: ModelConfig, in_features: int, *, bidirectional: bool = False, rngs: nnx.Rngs
) -> nn.RecurrentLayers:
    """Initialises the recurrent layers of a config; the caller chooses the direction.

    The cell gets those of the config's options that its initialiser has.
    """
    options = {name: getattr(config, name) for name in cell_options(config.cell)}
    layers = nn.RecurrentLayers(
        in_features,
        config.hidden_size,
        init_cell=CELLS[config.cell].init,
        num_layers=config.num_layers,
        bidirectional=bidirectional,
        dropout=config.dropout if config.num_layers > 1 else 0.0,
        rngs=rngs,
        **options,
    )
    if config.dropout and config.num_layers == 1:
        # Several layers fork the stream. A single one does, too, so that the number of layers does
        # not change the parameters that are initialised next.
        rngs.dropout.fork()
    return layers


def run_layers(
    layers: nn.RecurrentLayers, inputs: jax.Array, rngs: nnx.Rngs | None, **options: Any
) -> tuple[Any, jax.Array]:
    """Runs recurrent layers and returns (carry, outputs); dropout is disabled without `rngs`."""
    if rngs is not None and len(layers.layers) == 1:
        # Several layers take a key. A single one does, too, so that the number of layers does not
        # change the dropout masks that are sampled next.
        rngs.dropout()
    deterministic = rngs is None
    return layers(inputs, return_carry=True, deterministic=deterministic, rngs=rngs, **options)


class _Network(nnx.Module):
    def __init__(
        self,
        config: ModelConfig,
        in_features: int,
        out_features: int,
        readout: Readout,
        embeddings: Sequence[tuple[int, int]],
        *,
        rngs: nnx.Rngs,
    ):
        embedded = in_features + sum(size - 1 for _, size in embeddings)
        self.recurrent = recurrent_layers(
            config, embedded, bidirectional=config.bidirectional, rngs=rngs
        )
        self.dropout = nnx.Dropout(config.dropout)
        self.readout = nnx.Linear(self.recurrent.out_features, out_features, rngs=rngs)
        self.reads_last_step = readout == "last step"
        self.embeddings = nnx.List(
            [nnx.Embed(count, size, rngs=rngs) for count, size in embeddings]
        )

    def embed(self, inputs: jax.Array) -> jax.Array:
        if not len(self.embeddings):
            return inputs
        first = inputs.shape[-1] - len(self.embeddings)
        columns = [inputs[..., :first]]
        for index, embed in enumerate(self.embeddings, first):
            table = _with_zeros(embed.embedding[...])
            columns.append(table[inputs[..., index].astype(jnp.int32)])
        return jnp.concatenate(columns, axis=-1)

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        key: jax.Array | None,
        *,
        carry: Any = None,
        starts: Array | None = None,
    ) -> tuple[jax.Array, Any]:
        deterministic = key is None
        rngs = None if key is None else nnx.Rngs(dropout=key)
        inputs = self.embed(inputs)
        carry, hidden = run_layers(
            self.recurrent, inputs, rngs, initial_carry=carry, seq_lengths=lengths, starts=starts
        )
        if self.reads_last_step:
            hidden = self._last_hidden(carry)
        features = self.dropout(hidden, deterministic=deterministic, rngs=rngs)
        return self.readout(features), carry

    def _last_hidden(self, carry: Any) -> jax.Array:
        cells = self.recurrent.layers[-1]
        top = carry if len(self.recurrent.layers) == 1 else carry[-1]
        states = top if len(cells) > 1 else (top,)
        outputs = [cell.params.output(state) for cell, state in zip(cells, states, strict=True)]
        return jnp.concatenate(outputs, axis=-1)
