"""Comparison of trees: structure with static fields, shapes, dtypes and values."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

# How many units in the last place a result may be off. Matmuls in bfloat16 accumulate in float32,
# so that only their operands and the outputs are rounded to bfloat16.
ROUNDINGS = {"float64": 64, "float32": 64, "bfloat16": 4}


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Compares two trees to the rounding of the dtype, relative to each leaf's largest element."""
    chex.assert_trees_all_equal_structs(actual, expected)

    def scaled(leaf: Any, expected: Any) -> np.ndarray:
        largest = np.abs(np.asarray(expected, np.float64)).max(initial=0.0)
        return np.asarray(leaf, np.float64) / max(1.0, largest)

    chex.assert_trees_all_close(
        jax.tree.map(scaled, actual, expected),
        jax.tree.map(scaled, expected, expected),
        rtol=0,
        atol=ROUNDINGS[dtype] * float(jnp.finfo(dtype).eps),
        strict=True,
    )


def assert_equal(actual: Any, expected: Any) -> None:
    """Compares two trees bit for bit."""
    # The values alone would be compared in float32 where they are bfloat16.
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_equal(actual, expected)
