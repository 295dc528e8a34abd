"""Regularisers: functions of an explicit random key."""

import jax
import jax.numpy as jnp

from gru_jax import _checks
from gru_jax.typing import Array


def dropout(key: Array, xs: Array, rate: float, *, broadcast_dims: tuple[int, ...] = ()) -> Array:
    """Zeroes a random share of ``xs`` and scales up the rest (Srivastava et al. 2014).

    Args:
        key: a random key.
        xs: an array of floating point numbers of any shape.
        rate: the share that is zeroed, in [0, 1).
        broadcast_dims: axes along which one draw serves all; ``(0,)`` keeps one mask for a whole
            sequence with time leading (variational dropout; Gal & Ghahramani 2016).

    Returns:
        An array like ``xs``, with the same expectation.

    Raises:
        TypeError: a wrong type of key, ``xs`` or rate.
        ValueError: the rate is outside [0, 1).
    """
    _checks.random_key("key", key)
    xs = _checks.floating_array("xs", xs)
    rate = _checks.probability("rate", rate)
    if rate == 0:
        return xs
    shared = {axis % xs.ndim for axis in broadcast_dims}
    mask_shape = tuple(1 if axis in shared else size for axis, size in enumerate(xs.shape))
    kept = jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, mask_shape), xs.shape)
    return jnp.where(kept, xs / jnp.asarray(1 - rate, xs.dtype), jnp.zeros_like(xs))
