"""Accumulation of gradients over batches that count by their weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gru_jax import _checks
from gru_jax.typing import Array


class WeightedAccumulationState(NamedTuple):
    """State of :func:`weighted_accumulation`.

    Attributes:
        mini_step: int32 scalar, number of gradients accumulated since the last update.
        weight: float32 scalar, their total weight.
        gradients: their weighted mean, in float32 at least.
        inner_state: the state of the inner optimizer.
    """

    mini_step: Array
    weight: Array
    gradients: Any
    inner_state: Any


def weighted_accumulation(
    inner: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    """As :class:`optax.MultiSteps`, but the mean of the gradients is a weighted one.

    Where a loss is a mean over the valid elements of its batch, and a batch's weight is the number
    of these, the update is that of one batch with all the elements. The equal weights of
    ``MultiSteps`` let the elements of short sequences count more than those of long ones.

    Args:
        inner: the optimizer that gets the means.
        steps: number of gradients per update.

    Returns:
        A transformation whose ``update`` takes the further argument ``weight``, a scalar of at
        least 0, by default 1.

    Raises:
        TypeError: ``inner`` is no optimizer, or ``steps`` no integer.
        ValueError: ``steps`` is not positive.
    """
    _checks.instance(
        "inner", inner, optax.GradientTransformation, "an optax.GradientTransformation"
    )
    _checks.positive_int("steps", steps)
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> WeightedAccumulationState:
        # The caller may have turned promotion off.
        with jax.numpy_dtype_promotion("standard"):
            zeros = jax.tree.map(
                lambda leaf: jnp.zeros_like(leaf, jnp.promote_types(leaf.dtype, jnp.float32)),
                params,
            )
        return WeightedAccumulationState(
            jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), zeros, inner.init(params)
        )

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        weight: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Any, WeightedAccumulationState]:
        total = state.weight + weight
        share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)

        def add(mean: Array, gradient: Array) -> Array:
            # The mean over no elements is not a number.
            change = jnp.where(share > 0, gradient.astype(mean.dtype) - mean, 0)
            return mean + share.astype(mean.dtype) * change

        means = jax.tree.map(add, state.gradients, updates)

        def update_parameters() -> tuple[Any, WeightedAccumulationState]:
            averaged = jax.tree.map(
                lambda mean, gradient: mean.astype(gradient.dtype), means, updates
            )
            of_inner, inner_state = inner.update(averaged, state.inner_state, params, **extra)
            of_inner = jax.tree.map(lambda of, like: of.astype(like.dtype), of_inner, updates)
            zeros = jax.tree.map(jnp.zeros_like, means)
            return of_inner, WeightedAccumulationState(
                jnp.zeros_like(state.mini_step), jnp.zeros_like(total), zeros, inner_state
            )

        def wait() -> tuple[Any, WeightedAccumulationState]:
            zeros = jax.tree.map(jnp.zeros_like, updates)
            return zeros, WeightedAccumulationState(
                state.mini_step + 1, total, means, state.inner_state
            )

        return jax.lax.cond(state.mini_step == steps - 1, update_parameters, wait)

    return optax.GradientTransformationExtraArgs(init, update)
