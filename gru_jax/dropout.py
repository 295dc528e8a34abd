"""Dropout with an explicit random key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gru_jax import _checks
from gru_jax.typing import Array


def dropout(key: Array, xs: Array, rate: float, *, broadcast_dims: Sequence[int] = ()) -> Array:
    """Sets random elements of ``xs`` to zero and scales the others up (Srivastava et al. 2014).

    Args:
        key: a random key.
        xs: an array of floating point numbers of any shape.
        rate: probability of an element to be set to zero, in [0, 1).
        broadcast_dims: axes along which the mask is broadcast, as in Flax. With time-major ``xs``,
            ``(0,)`` uses one mask for a whole sequence (variational dropout; Gal & Ghahramani
            2016).

    Returns:
        An array of the shape and dtype of ``xs``, with the same expectation.

    Raises:
        TypeError: a wrong type of key, ``xs``, rate or axes.
        ValueError: the rate is outside [0, 1), or ``xs`` lacks one of the axes.
    """
    _checks.random_key("key", key)
    xs = _checks.floating_array("xs", xs)
    rate = _checks.probability("rate", rate)
    if not isinstance(broadcast_dims, Sequence):
        raise TypeError(f"broadcast_dims must be a sequence of axes, got {broadcast_dims!r}")
    if not all(-xs.ndim <= axis < xs.ndim for axis in broadcast_dims):
        raise ValueError(
            f"broadcast_dims must be axes of xs, which has {xs.ndim}; got {broadcast_dims}"
        )
    if rate == 0:
        return xs
    broadcast = {axis % xs.ndim for axis in broadcast_dims}
    mask_shape = tuple(1 if axis in broadcast else size for axis, size in enumerate(xs.shape))
    sharding = jax.typeof(xs).sharding
    if any(entry is not None for entry in sharding.spec):
        # Sharded over explicit axes of a mesh. Each device draws its part of the same numbers.
        of_mask = [None if axis in broadcast else entry for axis, entry in enumerate(sharding.spec)]
        drawn_as = NamedSharding(sharding.mesh, PartitionSpec(*of_mask))
        mask = jax.random.bernoulli(key, 1 - rate, mask_shape, out_sharding=drawn_as)
        mask = jnp.broadcast_to(mask, xs.shape, out_sharding=sharding)
    else:
        mask = jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, mask_shape), xs.shape)
    return jnp.where(mask, xs / jnp.asarray(1 - rate, xs.dtype), jnp.zeros_like(xs))
