"""Flax's own recurrent layers in place of ours, for benchmarks of whole training runs."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from flax import nnx

from experiments.config import ModelConfig
from experiments.models import recurrent


class FlaxLayers(nnx.Module):
    """Layers of :class:`flax.nnx.GRUCell` in :class:`flax.nnx.RNN`, with dropout between them.

    The interface is what :func:`experiments.models.recurrent.run_layers` calls. ``nnx.GRUCell`` has
    one bias less than our cell.
    """

    def __init__(self, config: ModelConfig, in_features: int, *, rngs: nnx.Rngs):
        sizes = [in_features, *[config.hidden_size] * config.num_layers]
        self.layers = nnx.List(
            [
                nnx.RNN(nnx.GRUCell(read, size, rngs=rngs), return_carry=True)
                for read, size in itertools.pairwise(sizes)
            ]
        )
        self.dropout = nnx.Dropout(config.dropout)
        self.out_features = config.hidden_size

    def __call__(
        self,
        inputs: jax.Array,
        *,
        return_carry: bool,
        deterministic: bool,
        rngs: nnx.Rngs | None,
        initial_carry: Any,
        seq_lengths: jax.Array | None,
        starts: jax.Array | None,
    ) -> tuple[Any, jax.Array]:
        if starts is not None or not return_carry:
            raise NotImplementedError("starts, and outputs without a carry")
        carries: list[Any] = []
        hidden: Any = inputs
        for index, layer in enumerate(self.layers):
            if index:
                hidden = self.dropout(hidden, deterministic=deterministic, rngs=rngs)
            # Without one, nnx.RNN asks for random keys.
            shape = (*hidden.shape[:1], hidden.shape[-1])
            first = (
                layer.cell.initialize_carry(shape, nnx.Rngs(0))
                if initial_carry is None
                else initial_carry[index]
            )
            carry, hidden = layer(hidden, initial_carry=first, seq_lengths=seq_lengths)
            carries.append(carry)
        return tuple(carries), hidden


@contextlib.contextmanager
def use_flax_layers() -> Iterator[None]:
    """Networks of GRUs that are built within have Flax's layers; one direction."""

    def layers(
        config: ModelConfig, in_features: int, *, bidirectional: bool = False, rngs: nnx.Rngs
    ) -> FlaxLayers:
        if config.cell != "gru" or bidirectional:
            raise NotImplementedError("other cells, and both directions")
        return FlaxLayers(config, in_features, rngs=rngs)

    with mock.patch.object(recurrent, "recurrent_layers", layers):
        yield
