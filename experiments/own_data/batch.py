"""Batches of windows of sequences, whose targets may be missing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.typing import Array


class Batch(NamedTuple):
    """Windows in the data's own units, NaN where a value is missing.

    Attributes:
        inputs: (N, steps, F), float32. In forecasting they include the steps of the horizon if
            features are known ahead; in imputation they lack the hidden values.
        targets: (N, T, K), float32: the horizon, or the hidden values only.
        deviation: (N, K), the targets' deviation in the training part: the unit of the loss.
    """

    inputs: Array
    targets: Array
    deviation: Array


def number_of_targets(batch: Batch) -> jax.Array:
    """Returns the number of targets that are not missing, which the loss is a mean over."""
    return jnp.sum(~jnp.isnan(jnp.asarray(batch.targets)))
