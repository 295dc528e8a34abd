"""Where a carry lives: under a mesh, placement is part of an array's type, and of a carry's."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax

from gru_jax.typing import Array, State

TreeT = TypeVar("TreeT")


def settle(next_state: Callable[[State], State], state: State) -> State:
    """The state placed as ``next_state`` gives it back, which is what a scan asks of its carry.

    Zeros are the same everywhere, on one device as well as on all, but a step that reads a
    sharded batch gives a sharded state; :func:`jax.shard_map` and explicit sharding both count
    that a change of type.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return state
    return place(state, jax.eval_shape(next_state, state))


def place(state: State, like: State) -> State:
    """The state placed like another (arrays or their types)."""
    if jax.sharding.get_abstract_mesh().empty:
        return state
    return jax.tree.map(_place, state, like)


def vary_alike(tree: TreeT) -> TreeT:
    """The arrays of a tree differing from device to device along all axes that any of them does.

    Within :func:`jax.shard_map` parameters are the same on every device while inputs are not.
    Where a derivative is written by hand nobody adds up the parameters' gradients over devices;
    transposing this does.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    axes = frozenset[str]().union(*(_varying(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)))

    def vary(leaf: Array) -> Array:
        missing = axes - _varying(jax.typeof(leaf))
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _place(leaf: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
    wanted = like if isinstance(like, jax.ShapeDtypeStruct) else jax.typeof(like)
    missing = _varying(wanted) - _varying(jax.typeof(leaf))
    if missing:
        leaf = lax.pcast(leaf, tuple(missing), to="varying")
    sharding = wanted.sharding
    if sharding is not None and sharding != jax.typeof(leaf).sharding:
        leaf = jax.sharding.reshard(leaf, sharding)
    return leaf


def _varying(aval) -> frozenset[str]:
    """The manual axes over which an array differs from device to device."""
    return aval.manual_axis_type.varying if aval.manual_axis_type is not None else frozenset()
