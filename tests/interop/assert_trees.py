"""Equality of parameters: every element, dtype and static field."""

from typing import Any

import jax
import numpy as np

# Keras' variables lag behind NumPy 2.
KERAS_WARNING = "ignore:__array__ implementation:DeprecationWarning:keras"


def assert_equal(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
