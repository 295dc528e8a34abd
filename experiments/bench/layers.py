"""Layers: one and two, in one direction and in both, beside the same of Flax's NNX."""

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
from experiments.bench.timing import Spread, interleave


def time_layers(size: ProblemSize, seconds: float) -> dict[str, dict[str, Spread]]:
    """Times the gradient with respect to parameters and inputs, by kind and library.

    Raises:
        UserError: where the two compute different things.
    """
    return {
        f"{count} {direction}": _time_kind(size, count, direction == "both ways", seconds / 4)
        for count in (1, 2)
        for direction in ("one way", "both ways")
    }


def _time_kind(
    size: ProblemSize, num_layers: int, bidirectional: bool, seconds: float
) -> dict[str, Spread]:
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
    graph, weights, others = nnx.split(model, nnx.Param, ...)

    def ours(stack: gru_jax.Stack, xs: jax.Array) -> jax.Array:
        return gru_jax.unroll_stack(stack, xs)[1]

    def theirs(weights: Any, xs: jax.Array) -> jax.Array:
        return nnx.merge(graph, weights, others)(xs)

    expected = ours(stack, xs)
    compare("The layers of nnx", np.asarray(theirs(weights, xs)), expected)
    factors = jax.random.normal(keys[2], expected.shape)

    def gradient(apply: Any) -> Any:
        return jax.jit(jax.grad(lambda params, xs: jnp.sum(apply(params, xs) * factors), (0, 1)))

    of_ours, of_theirs = gradient(ours), gradient(theirs)
    return interleave(
        {
            "gru_jax": lambda: jax.block_until_ready(of_ours(stack, xs)),
            "nnx": lambda: jax.block_until_ready(of_theirs(weights, xs)),
        },
        seconds=seconds,
    )


def _without_b_hn(key: jax.Array, input_size: int, hidden_size: int) -> gru_jax.GRUParams:
    """Parameters that nnx.GRUCell can hold."""
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
