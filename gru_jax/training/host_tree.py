"""A pytree as named arrays with a description, and snapshots of its arrays in host memory."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._autodiff.step_graph import node_types
from gru_jax.cells import Cell

TreeSpec = dict[str, dict[str, str]]
Bounds = tuple[tuple[int, int], ...]


def named_arrays(tree: Any) -> dict[str, jax.Array]:
    """Returns the leaves of ``tree`` by path; random keys as raw data, empty leaves not at all."""
    return {
        name: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for name, leaf in _named_leaves(tree)
        if leaf.size
    }


def from_named_arrays(arrays: Mapping[str, jax.Array], like: Any) -> Any:
    """Inverse of :func:`named_arrays`; ``like`` gives the structure."""

    def find(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
        if leaf.size == 0:
            return leaf
        array = arrays[jax.tree_util.keystr(path)]
        if _is_key(leaf):
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        return array

    return jax.tree_util.tree_map_with_path(find, like)


@dataclasses.dataclass(frozen=True)
class HostArray:
    """An array in host memory: of each process, the shards on its own devices.

    Attributes:
        shape, sharding: those of the array.
        shards: the shards by their bounds along each axis; one that several devices hold is once.
    """

    shape: tuple[int, ...]
    sharding: jax.sharding.Sharding
    shards: Mapping[Bounds, np.ndarray]

    def to_device(self) -> jax.Array:
        """Returns the array again."""
        return jax.make_array_from_callback(
            self.shape, self.sharding, lambda index: self.shards[_bounds(index, self.shape)]
        )


def to_host(tree: Any) -> dict[str, HostArray]:
    """Copies the leaves of ``tree`` to host memory, by path as :func:`named_arrays`."""
    arrays = named_arrays(tree)
    # One transfer of all shards.
    shards = jax.device_get(
        {
            name: {
                _bounds(shard.index, array.shape): shard.data for shard in array.addressable_shards
            }
            for name, array in arrays.items()
        }
    )
    return {
        name: HostArray(array.shape, array.sharding, shards[name]) for name, array in arrays.items()
    }


def to_device(arrays: Mapping[str, HostArray], like: Any) -> Any:
    """Inverse of :func:`to_host`; ``like`` gives the structure."""
    return from_named_arrays({name: array.to_device() for name, array in arrays.items()}, like)


def tree_spec(tree: Any) -> TreeSpec:
    """Describes a tree: its cells, shapes and dtypes of its leaves, values of its static fields."""
    leaves = {
        name: f"shape {leaf.shape} and dtype {leaf.dtype}" for name, leaf in _named_leaves(tree)
    }
    # Cells with equal leaves may have other equations.
    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_cell)
    cells = {
        jax.tree_util.keystr(path): " of ".join(
            each.__name__ for each in node_types(node) if issubclass(each, Cell)
        )
        for path, node in nodes
        if _is_cell(node)
    }
    return {"cell": cells, "leaf": leaves, "static field": dict(_static_fields(tree, ""))}


def first_mismatch(there: TreeSpec, here: TreeSpec) -> str | None:
    """Names the first difference between two descriptions; None if they are equal."""
    for kind in here:
        if kind not in there:
            continue  # Earlier versions did not record it.
        for name in here[kind] | there[kind]:
            value_there = there[kind].get(name, "absent")
            value_here = here[kind].get(name, "absent")
            if value_there != value_here:
                return f"{kind} {name}: {value_there} there, {value_here} here"
    return None


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _bounds(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Bounds:
    assert index is not None
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _is_cell(node: Any) -> bool:
    return isinstance(node, Cell)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _static_fields(tree: Any, prefix: str) -> Iterator[tuple[str, str]]:
    # Only those of dataclasses: the repr of other static data in a tree's structure may differ
    # from one process, or version of a library, to the next.
    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=dataclasses.is_dataclass)
    for path, node in nodes:
        if not dataclasses.is_dataclass(node):
            continue
        for field in dataclasses.fields(node):
            name = f"{prefix}{jax.tree_util.keystr(path)}.{field.name}"
            value = getattr(node, field.name)
            if field.metadata.get("static") or field.metadata.get("pytree_node") is False:
                yield name, re.sub(r" at 0x[0-9a-f]+", "", repr(value))
            else:
                yield from _static_fields(value, name)
