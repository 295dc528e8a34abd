"""The part of a run that the jitted step changes: step, parameters and optimizer state."""

import dataclasses
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
        carry: what a step hands to the next one beside them, without a gradient, such as the
            hidden states of a stream in truncated backpropagation through time; None: nothing.
    """

    step: Array
    params: Any
    opt_state: Any
    carry: Any = None

    @classmethod
    def create(
        cls, params: Any, optimizer: optax.GradientTransformation, carry: Any = None
    ) -> "TrainState":
        """Returns the state at step 0.

        It owns all its arrays: a train step gives their memory away, and neither ``params`` nor
        an array that stands in two places of the state may go with it.
        """
        state = cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
        return jax.tree.map(_copy, state)

    @classmethod
    def stack(cls, states: "Sequence[TrainState]") -> "TrainState":
        """Returns the states of several runs at the same step as one, with a leading axis."""
        trees = [(state.params, state.opt_state, state.carry) for state in states]
        return cls(_copy(states[0].step), *jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))

    def run(self, index: int) -> "TrainState":
        """Returns the state of one run of those that :meth:`stack` joined."""
        tree = (self.params, self.opt_state, self.carry)
        return TrainState(self.step, *jax.tree.map(lambda leaf: leaf[index], tree))


def _copy(leaf: Any) -> Array:
    # A dtype given explicitly makes a strong one of a weak one (that of a Python scalar), which
    # would turn strong in the first step and have the second step compiled anew.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)
