"""What is converted: models of many kinds, their random weights, and how ours run them."""

import dataclasses
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
        layers, directions: how many; 0 layers is one cell by itself, GRUParams and no Stack.
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

    def inputs_of(self, layer: int) -> int:
        """How many features a layer reads."""
        merged = self.directions if self.merge == "concat" else 1
        return self.hidden * merged if layer else self.input

    def draw(self, seed: int) -> gru_jax.GRUParams | gru_jax.Stack:
        """Our parameters: random numbers in [-1, 1), no two alike, biases too."""
        options: dict[str, Any] = {"reset": self.reset, "bias": self.bias, "dtype": self.dtype}
        key = jax.random.key(0)
        if self.layers == 0:
            ours = gru_jax.init(key, self.input, self.hidden, **options)
        else:
            ours = gru_jax.init_stack(
                key,
                self.input,
                self.hidden,
                num_layers=self.layers,
                bidirectional=self.directions == 2,
                merge=self.merge,
                **options,
            )
        chance = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: jnp.asarray(uniform(chance, leaf.shape, self.dtype)), ours)

    def draw_inputs(self, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Inputs (T, B, D), and an initial state (B, H) for each cell."""
        chance = np.random.default_rng([seed, 1])
        xs = uniform(chance, (TIME, BATCH, self.input), self.dtype)
        return xs, [uniform(chance, (BATCH, self.hidden), self.dtype) for _ in self.cells]


def uniform(chance: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random numbers in [-1, 1)."""
    return chance.uniform(-1, 1, shape).astype(dtype)


def run_ours(
    ours: gru_jax.GRUParams | gru_jax.Stack, xs: np.ndarray, states: list[np.ndarray]
) -> Result:
    """What our model makes of inputs, from a state of each cell."""
    if not isinstance(ours, gru_jax.Stack):
        last, ys = unroll(ours, jnp.asarray(xs), jnp.asarray(states[0]))
        return np.asarray(ys), [np.asarray(last)]
    given = map(jnp.asarray, states)
    by_layer = tuple(tuple(next(given) for _ in layer) for layer in ours.layers)
    last, ys = unroll_stack(ours, jnp.asarray(xs), by_layer)
    return np.asarray(ys), [np.asarray(state) for layer in last for state in layer]


unroll = jax.jit(gru_jax.unroll)
unroll_stack = jax.jit(gru_jax.unroll_stack)


def largest_error(found: Result, expected: Result) -> float:
    """The largest absolute difference in outputs and last states; those are within [-1, 1]."""
    pairs = [(found[0], expected[0]), *zip(found[1], expected[1], strict=True)]
    return max(float(np.abs(mine - other).max()) for mine, other in pairs)
