"""The models that are converted: their sizes, random parameters, and outputs in gru_jax."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from gru_jax.cells.gru import Reset
from gru_jax.stack import Merge

TIME, BATCH = 6, 3

Result = tuple[np.ndarray, list[np.ndarray]]
"""Outputs (T, B, H or 2H), and the last state (B, H) of each cell, layers first."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A GRU's kind and sizes.

    Attributes:
        layers, directions: their numbers; 0 layers is a single cell, GRUParams instead of a Stack.
        reset, bias, merge, dtype: as in gru_jax.
        input, hidden: D and H.
    """

    layers: int = 0
    directions: int = 1
    reset: Reset = "after"
    bias: bool = True
    merge: Merge = "concat"
    input: int = 3
    hidden: int = 5
    dtype: str = "float32"

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Layer and direction of each cell."""
        return [
            (layer, direction)
            for layer in range(max(1, self.layers))
            for direction in range(self.directions)
        ]

    def input_size_of(self, layer: int) -> int:
        """The number of input features of a layer."""
        merged = self.directions if self.merge == "concat" else 1
        return self.hidden * merged if layer else self.input

    def init(self, seed: int) -> gru_jax.GRUParams | gru_jax.Stack:
        """Random parameters in [-1, 1), biases included."""
        options: dict[str, Any] = {"reset": self.reset, "bias": self.bias, "dtype": self.dtype}
        init: Any = functools.partial(gru_jax.init, **options)
        if self.layers:
            init = functools.partial(
                gru_jax.init_stack,
                num_layers=self.layers,
                bidirectional=self.directions == 2,
                merge=self.merge,
                **options,
            )
        # Only the tree is wanted: its arrays would be compiled for each shape.
        params = jax.eval_shape(lambda: init(jax.random.key(0), self.input, self.hidden))
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: jnp.asarray(uniform(rng, leaf.shape, self.dtype)), params)

    def sample_inputs(self, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Inputs (T, B, D), and an initial state (B, H) for each cell."""
        rng = np.random.default_rng([seed, 1])
        xs = uniform(rng, (TIME, BATCH, self.input), self.dtype)
        return xs, [uniform(rng, (BATCH, self.hidden), self.dtype) for _ in self.cells]


def uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Uniform random elements in [-1, 1)."""
    return rng.uniform(-1, 1, shape).astype(dtype)


def run_gru_jax(
    params: gru_jax.GRUParams | gru_jax.Stack, xs: np.ndarray, states: list[np.ndarray]
) -> Result:
    """Outputs and last states, from an initial state of each cell."""
    if not isinstance(params, gru_jax.Stack):
        last, ys = unroll(params, jnp.asarray(xs), jnp.asarray(states[0]))
        return np.asarray(ys), [np.asarray(last)]
    remaining = map(jnp.asarray, states)
    by_layer = tuple(tuple(next(remaining) for _ in layer) for layer in params.layers)
    last, ys = unroll_stack(params, jnp.asarray(xs), by_layer)
    return np.asarray(ys), [np.asarray(state) for layer in last for state in layer]


unroll = jax.jit(gru_jax.unroll)
unroll_stack = jax.jit(gru_jax.unroll_stack)


def largest_error(actual: Result, expected: Result) -> float:
    """The largest absolute difference in outputs and last states; those are within [-1, 1]."""
    pairs = [(actual[0], expected[0]), *zip(actual[1], expected[1], strict=True)]
    return max(float(np.abs(a - b).max()) for a, b in pairs)
