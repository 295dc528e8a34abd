"""A batch in shards, one for each CPU core, whose arrays have not been joined."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.typing import Array

TreeT = TypeVar("TreeT")

Shards = tuple[slice, ...]
"""The batch's rows, one slice for each shard."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sharded:
    """An array (T, batch, ...) as one array for each shard, in order."""

    shards: list[Array]


def unshard(tree: TreeT, *, materialize: bool = False) -> TreeT:
    """The tree with every :class:`Sharded` array joined along its batch axis.

    With ``materialize``, XLA writes the joined arrays before it computes with them. It joins arrays
    fast, but not if it computes them on the way.
    """
    is_sharded = False

    def join(leaf: Any) -> Any:
        nonlocal is_sharded
        if not isinstance(leaf, Sharded):
            return leaf
        is_sharded = True
        return jnp.concatenate(leaf.shards, axis=1)

    tree = jax.tree.map(join, tree, is_leaf=lambda leaf: isinstance(leaf, Sharded))
    return lax.optimization_barrier(tree) if materialize and is_sharded else tree


def slice_batch(tree: TreeT, shard: slice, *, axis: int = 0) -> TreeT:
    """The rows of one shard, of all arrays."""
    return jax.tree.map(
        lambda leaf: lax.slice_in_dim(leaf, shard.start, shard.stop, axis=axis), tree
    )
