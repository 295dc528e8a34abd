"""The state that the jitted train step updates: step, parameters and optimizer state."""

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
    """Input and output of a train step.

    Attributes:
        step: int32 scalar, number of steps taken.
        params: any pytree of arrays.
        opt_state: the optimizer's state for these parameters.
        carry: state passed from step to step without a gradient, such as the hidden states of a
            stream in truncated backpropagation through time; None if there is none.
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

        All its arrays are copies, because a train step donates them: ``params`` stays usable, and
        an array may occur twice in ``params``.
        """
        state = cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
        return jax.tree.map(_copy, state)

    @classmethod
    def stack(cls, states: "Sequence[TrainState]") -> "TrainState":
        """Stacks the states of several runs at the same step along a new leading axis.

        ``step`` stays a scalar. The result is the state of
        :func:`gru_jax.training.make_vmapped_train_step`.
        """
        trees = [(state.params, state.opt_state, state.carry) for state in states]
        return cls(_copy(states[0].step), *jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))

    def unstack(self, index: int) -> "TrainState":
        """Returns the state of one run of those that :meth:`stack` combined."""
        tree = (self.params, self.opt_state, self.carry)
        return TrainState(self.step, *jax.tree.map(lambda leaf: leaf[index], tree))


def _copy(leaf: Any) -> Array:
    # An explicit dtype makes the copy strongly typed. The weak type of a Python scalar would
    # become strong in the first step, and the second step would be compiled again.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)
