"""What the forward pass saves for the backward pass, and the states that steps read, from it."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gru_jax._unroll.backward.jacobian import Leaves
from gru_jax._unroll.masking import ScanInputs, tree_where
from gru_jax._unroll.shards import unshard
from gru_jax.cells.precision import promote_state
from gru_jax.typing import Array, State

# What is saved of all steps: the states alone, or one of the others as well.
ResidualPolicy: TypeAlias = Literal["states", "projected", "preactivations"]


class Residuals(NamedTuple):
    """What the forward pass saves of all steps, leaves (T, *batch, ...)."""

    states: State  # after each step
    preactivations: list[tuple[Array, ...]] | None = None  # of each matmul; None: recomputed
    elementwise: Leaves | None = None  # projected leaves that are used elementwise, with these
    projected: Any = None  # inputs of the recomputation; None: inputs are projected again, too


def states_before_chunks(
    residuals: Residuals, h0: State, time: int, chunk_size: int, *, reverse: bool
) -> tuple[State, State]:
    """The states before every full chunk, leaves (T // chunk_size, *batch, H), and the rest."""
    count, rest = divmod(time, chunk_size)
    end = count * chunk_size

    def states(chosen: slice) -> State:
        return unshard(jax.tree.map(lambda leaf: leaf[chosen], residuals.states))

    def join(*trees: State) -> State:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)

    first = jax.tree.map(lambda leaf: leaf[None], h0)
    if reverse and rest:
        return states(slice(chunk_size, end + 1, chunk_size)), h0
    if reverse:
        return join(states(slice(chunk_size, time, chunk_size)), first), h0
    before_full = join(first, states(slice(chunk_size - 1, end - 1, chunk_size)))
    if not rest:
        return before_full, h0
    return before_full, jax.tree.map(lambda leaf: leaf[0], states(slice(end - 1, end)))


def previous_states(
    before: State, states: State, inputs: ScanInputs, reset_state: State, *, reverse: bool
) -> State:
    """The state that each step reads, from the one before all and those after each."""

    def shift(before: Array, states: Array) -> Array:
        if reverse:
            return jnp.concatenate([states[1:], before[None]])
        return jnp.concatenate([before[None], states[:-1]])

    previous = jax.tree.map(shift, before, states)
    if inputs.resets is not None:
        everywhere = jax.tree.map(lambda r, h: jnp.broadcast_to(r, h.shape), reset_state, previous)
        previous = tree_where(inputs.resets, everywhere, previous)
    return promote_state(previous, inputs.xs.dtype)
