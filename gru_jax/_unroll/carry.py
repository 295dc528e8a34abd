"""Shapes, dtypes and sharding of scan carries.

Under a mesh, sharding is part of an array's type, and ``lax.scan`` requires a carry of constant
type.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from gru_jax._compat import pcast_to_varying, varying_axes
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.base import Cell
from gru_jax.cells.precision import cast_like, cast_params, promote_state
from gru_jax.typing import Array, ProjectedInputs, Shape, State

TreeT = TypeVar("TreeT")

MAP_AXES = (0, 1)
"""Where ``vmap`` puts its axis in the last state and the outputs: before the batch axes."""


def batch_shape_of(cell: Cell, xs: Array) -> Shape:
    """The batch axes of inputs (T, *batch, ...)."""
    return xs.shape[1 : xs.ndim - cell.num_feature_axes]


def initial_carry(cell: Cell, xs: Array) -> State:
    """The carry of a call without ``h0``: the initial state, in float32 at least."""
    return promote_state(cell.initial_state(batch_shape_of(cell, xs)), xs.dtype)


def reset_state_like(cell: Cell, inputs: ScanInputs, state: State) -> State:
    """The state that a reset puts in, with the dtypes and the sharding of another."""
    reset_state = cell.initial_state(batch_shape_of(cell, inputs.xs))
    return reshard_like(cast_like(reset_state, state), state)


def step_avals(cell: Cell, inputs: ScanInputs, state: State) -> tuple[State, ProjectedInputs]:
    """Types of the state and the projected inputs that one step combines."""
    dtype = inputs.xs.dtype
    x = jax.ShapeDtypeStruct(inputs.xs.shape[1:], dtype)
    return jax.eval_shape(
        lambda h, x: (promote_state(h, dtype), cast_params(cell, dtype).project(x)), state, x
    )


def match_carry_sharding(next_state: Callable[[State], State], state: State) -> State:
    """The state with the sharding that ``next_state`` returns.

    Zeros are replicated, but a step that reads a sharded batch returns a sharded state:
    :func:`jax.shard_map` and explicit sharding both count that as a change of type.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return state
    return reshard_like(state, jax.eval_shape(next_state, state))


def reshard_like(state: State, like: State) -> State:
    """The state with the sharding of another (arrays or their types)."""
    if jax.sharding.get_abstract_mesh().empty:
        return state

    def reshard(leaf: Array, like: Any) -> Array:
        wanted = like if isinstance(like, jax.ShapeDtypeStruct) else jax.typeof(like)
        leaf = _vary(leaf, varying_axes(wanted))
        sharding = wanted.sharding
        # An array that was made outside of the mesh has none to be moved to.
        is_placed = sharding is not None and not sharding.mesh.empty
        if is_placed and sharding != jax.typeof(leaf).sharding:
            leaf = jax.sharding.reshard(leaf, sharding)
        return leaf

    return jax.tree.map(reshard, state, like)


def pvary_to_common_axes(tree: TreeT) -> TreeT:
    """Casts all leaves to vary over the union of the manual mesh axes that any leaf varies over.

    Within :func:`jax.shard_map` parameters are replicated and inputs are not. The transpose of this
    cast sums the parameters' gradients over devices, which a custom backward pass does not do.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    leaves = jax.tree.leaves(tree)
    axes = frozenset[str]().union(*(varying_axes(jax.typeof(leaf)) for leaf in leaves))
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree)


def _vary(leaf: Array, axes: frozenset[str]) -> Array:
    missing = axes - varying_axes(jax.typeof(leaf))
    return pcast_to_varying(leaf, tuple(missing)) if missing else leaf
