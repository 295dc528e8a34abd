"""One and two layers, unidirectional and bidirectional, of ours and of Flax's NNX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import gru_jax
from experiments.bench.baselines import nnx_cell
from experiments.bench.implementations import compare
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import Summary, time_interleaved


def time_layers(size: ProblemSize, seconds: float) -> dict[str, dict[str, Summary]]:
    """Times the gradient with respect to parameters and inputs, by kind and library.

    Raises:
        UserError: if the two libraries compute different functions.
    """
    kinds = {
        "1 layer": (1, False),
        "1 bidirectional layer": (1, True),
        "2 layers": (2, False),
        "2 bidirectional layers": (2, True),
    }
    return {name: _time_kind(size, *kind, seconds / len(kinds)) for name, kind in kinds.items()}


def _time_kind(
    size: ProblemSize, num_layers: int, bidirectional: bool, seconds: float
) -> dict[str, Summary]:
    keys = jax.random.split(jax.random.key(0), 3)
    stack = gru_jax.init_stack(
        keys[0],
        size.input,
        size.hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        init_cell=_without_b_hn,
    )
    xs = jax.random.normal(keys[1], (size.time, size.batch, size.input))
    model = _Layers(stack.layers)
    graphdef, weights, rest = nnx.split(model, nnx.Param, ...)

    def unroll_stack(stack: gru_jax.Stack, xs: jax.Array) -> jax.Array:
        return gru_jax.unroll_stack(stack, xs)[1]

    def unroll_nnx(weights: Any, xs: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, weights, rest)(xs)

    expected = unroll_stack(stack, xs)
    compare("The outputs of the layers of nnx", np.asarray(unroll_nnx(weights, xs)), expected)
    factors = jax.random.normal(keys[2], expected.shape)

    def gradient(apply: Any) -> Any:
        return jax.jit(jax.grad(lambda params, xs: jnp.sum(apply(params, xs) * factors), (0, 1)))

    stack_gradient, nnx_gradient = gradient(unroll_stack), gradient(unroll_nnx)
    return time_interleaved(
        {
            "gru_jax": lambda: jax.block_until_ready(stack_gradient(stack, xs)),
            "nnx": lambda: jax.block_until_ready(nnx_gradient(weights, xs)),
        },
        seconds=seconds,
    )


def _without_b_hn(key: jax.Array, input_size: int, hidden_size: int) -> gru_jax.GRUParams:
    """Parameters that nnx.GRUCell can represent."""
    params = gru_jax.init(key, input_size, hidden_size, bias_init="torch")
    return dataclasses.replace(params, b_hn=jnp.zeros((hidden_size,)))


class _Layers(nnx.Module):
    """A stack's cells in nnx.RNN and nnx.Bidirectional."""

    def __init__(self, layers: Sequence[Sequence[Any]]):
        self.hidden_size = layers[0][0].hidden_size
        self.layers: Any = nnx.List(
            nnx.Bidirectional(*rnns, time_major=True) if len(rnns) == 2 else rnns[0]
            for rnns in (
                [nnx.RNN(nnx_cell(cell), time_major=True) for cell in layer] for layer in layers
            )
        )

    def __call__(self, xs: jax.Array) -> jax.Array:
        h0 = jnp.zeros((xs.shape[1], self.hidden_size))
        for layer in self.layers:
            both = isinstance(layer, nnx.Bidirectional)
            xs = layer(xs, initial_carry=(h0, h0) if both else h0)
        return xs
