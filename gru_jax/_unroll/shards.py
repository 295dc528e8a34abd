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

    def is_sharded(leaf: Any) -> bool:
        return isinstance(leaf, Sharded)

    def join(leaf: Any) -> Any:
        return jnp.concatenate(leaf.shards, axis=1) if is_sharded(leaf) else leaf

    joined = jax.tree.map(join, tree, is_leaf=is_sharded)
    any_sharded = any(map(is_sharded, jax.tree.leaves(tree, is_leaf=is_sharded)))
    return lax.optimization_barrier(joined) if materialize and any_sharded else joined


def slice_batch(tree: TreeT, shard: slice, *, axis: int = 0) -> TreeT:
    """The rows of one shard, of all arrays."""
    return jax.tree.map(
        lambda leaf: lax.slice_in_dim(leaf, shard.start, shard.stop, axis=axis), tree
    )
