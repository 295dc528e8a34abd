"""The parts of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

import jax
import jax.numpy as jnp
from jax import lax


def generalised_advantages(
    rewards: jax.Array,
    values: jax.Array,
    dones: jax.Array,
    last_value: jax.Array,
    *,
    discount: float,
    decay: float,
) -> jax.Array:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    Args:
        rewards: (T, N), of each step.
        values: (T, N), estimated before each step.
        dones: (T, N) booleans, whether an episode ended with the step. Nothing follows it, also
            where a time limit ended it.
        last_value: (N,), estimated after the last step.
        discount: gamma.
        decay: lambda.

    Returns:
        (T, N).
    """
    following = jnp.concatenate([values[1:], last_value[None]])
    continues = jnp.where(dones, 0.0, 1.0)
    deltas = rewards + discount * continues * following - values

    def body(
        advantage: jax.Array, step: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        delta, continues = step
        advantage = delta + discount * decay * continues * advantage
        return advantage, advantage

    return lax.scan(body, jnp.zeros_like(last_value), (deltas, continues), reverse=True)[1]


def clipped_surrogate(ratio: jax.Array, advantages: jax.Array, clip: float) -> jax.Array:
    """The objective of each step, to be maximised (Schulman et al. 2017, equation 7)."""
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return jnp.minimum(ratio * advantages, clipped * advantages)


def normalised(advantages: jax.Array) -> jax.Array:
    """Advantages with mean 0 and deviation 1 over a minibatch."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def entropy(log_probs: jax.Array) -> jax.Array:
    """The entropy of distributions over the last axis."""
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def log_prob_of(log_probs: jax.Array, actions: jax.Array) -> jax.Array:
    """Log-probabilities (..., A) of the actions (...) that were taken."""
    return jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
