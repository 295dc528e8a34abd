"""Environments of gymnax that need memory."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.extras import require


class Transition(NamedTuple):
    """What a step of all environments returns; where an episode ended, the next has begun."""

    observation: jax.Array  # (N, D)
    state: Any
    reward: jax.Array  # (N,)
    done: jax.Array  # (N,), whether the episode ended, by itself or by its limit of steps


@dataclasses.dataclass(frozen=True)
class Environments:
    """Environments that run concurrently.

    Attributes:
        num_features: features of an observation.
        num_actions: number of actions.
        longest: maximum steps of an episode.
        reset: (key, number) -> observations (number, D), states.
        step: (key, states, actions) -> Transition.
    """

    num_features: int
    num_actions: int
    longest: int
    reset: Callable[[jax.Array, int], tuple[jax.Array, Any]]
    step: Callable[[jax.Array, Any, jax.Array], Transition]


def make_environments(name: str, length: int) -> Environments:
    """Makes the environments of a config.

    Args:
        name: "memory-chain" and "umbrella-chain" (Osband et al. 2020, arXiv 1908.03568), "bandit",
            two arms whose probabilities change with the episode (Wang et al. 2016, arXiv
            1611.05763), or "cart-pole", without its velocities.
        length: steps of a chain; unused by the others.

    Raises:
        UserError: gymnax is not installed.
    """
    require("gymnax", "rl", needed_by="the task rl")
    import gymnax

    # Features that the agent observes; None for all.
    observed: tuple[int, ...] | None = None
    if name == "memory-chain":
        environment, params = gymnax.make("MemoryChain-bsuite")
        longest = length + 1
        params = params.replace(memory_length=length, max_steps_in_episode=longest)
    elif name == "umbrella-chain":
        environment, params = gymnax.make("UmbrellaChain-bsuite")
        longest = length
        params = params.replace(chain_length=length, max_steps_in_episode=longest)
    elif name == "bandit":
        environment, params = gymnax.make("BernoulliBandit-misc")
        longest = int(params.max_steps_in_episode)
    else:
        environment, params = gymnax.make("CartPole-v1")
        longest, observed = params.max_steps_in_episode, (0, 2)
    shape = environment.observation_space(params).shape

    def observation_of(observation: jax.Array) -> jax.Array:
        seen = observation if observed is None else observation[..., observed]
        return seen.astype(jnp.float32)

    def reset(key: jax.Array, number: int) -> tuple[jax.Array, Any]:
        keys = jax.random.split(key, number)
        with _usual_promotion():
            observation, state = jax.vmap(environment.reset, (0, None))(keys, params)
        # Of the dtypes that a step returns: Python's numbers have become arrays there.
        like = jax.eval_shape(jax.vmap(step_one), keys, state, jnp.zeros(number, jnp.int32))[1]
        return observation_of(observation), jax.tree.map(_strongly_typed, state, like)

    def step_one(key: jax.Array, state: Any, action: jax.Array) -> Any:
        with _usual_promotion():
            return environment.step(key, state, action, params)

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Transition:
        keys = jax.random.split(key, actions.shape[0])
        observation, after, reward, terminated, truncated, _ = jax.vmap(step_one)(
            keys, state, actions
        )
        after = jax.tree.map(_strongly_typed, after, state)
        reward = reward.astype(jnp.float32)
        done = terminated.astype(bool) | truncated.astype(bool)
        return Transition(observation_of(observation), after, reward, done)

    num_features = shape[0] if observed is None else len(observed)
    return Environments(num_features, environment.num_actions, longest, reset, step)


@contextlib.contextmanager
def _usual_promotion() -> Iterator[None]:
    """JAX's default promotion, on which gymnax relies and which the caller may have turned off."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _strongly_typed(leaf: Any, like: Any) -> jax.Array:
    """An array of another's dtype. JAX compiles a step once more for one of a weak type."""
    return lax.convert_element_type(leaf, like.dtype)
