"""The part of a run that the jitted step changes: step, parameters and optimizer state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gru_jax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a train step takes and returns.

    Attributes:
        step: int32 scalar, the number of steps taken.
        params: any pytree of arrays.
        opt_state: the optimizer's state for these parameters.
    """

    step: Array
    params: Any
    opt_state: Any

    @classmethod
    def create(cls, params: Any, optimizer: optax.GradientTransformation) -> "TrainState":
        """Returns the state at step 0.

        It owns all its arrays: a train step gives their memory away, and neither ``params`` nor
        an array that stands in two places of the state may go with it.
        """
        state = cls(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        return jax.tree.map(_copy, state)


def _copy(leaf: Any) -> Array:
    # A dtype given explicitly makes a strong one of a weak one (that of a Python scalar), which
    # would turn strong in the first step and have the second step compiled anew.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)
