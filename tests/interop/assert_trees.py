"""Comparison of parameters, exact in structure, static fields, dtypes and values."""

from typing import Any

import chex

# Keras' variables lag behind NumPy 2.
KERAS_WARNING = "ignore:__array__ implementation:DeprecationWarning:keras"


def assert_equal(actual: Any, expected: Any) -> None:
    # The values alone would be compared in float32 where they are bfloat16.
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_equal(actual, expected)
