"""The part of a run that the jitted step changes: step, parameters and optimizer state."""

import dataclasses
import functools
from collections.abc import Sequence
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

    @classmethod
    def stack(cls, states: "Sequence[TrainState]") -> "TrainState":
        """Returns the states of several runs at the same step as one, with a leading axis."""
        params, opt_states = zip(*((s.params, s.opt_state) for s in states), strict=True)
        join = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
        return cls(_copy(states[0].step), join(*params), join(*opt_states))

    def run(self, index: int) -> "TrainState":
        """Returns the state of one run of those that :meth:`stack` joined."""
        params, opt_state = jax.tree.map(lambda leaf: leaf[index], (self.params, self.opt_state))
        return TrainState(self.step, params, opt_state)


def _copy(leaf: Any) -> Array:
    # A dtype given explicitly makes a strong one of a weak one (that of a Python scalar), which
    # would turn strong in the first step and have the second step compiled anew.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)
