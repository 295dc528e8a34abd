"""Calls under a mesh with explicit axes: each device runs the sequences that it holds.

Along such axes sharding is part of an array's type. The types of a call's arrays tell over which
axes its batch is sharded, and :func:`jax.shard_map` runs the call as on one device.

Notation:
    entry: what a ``PartitionSpec`` says of one axis of an array: None, the name of a mesh axis, or
        a tuple of names.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gru_jax._unroll.validation import CallArguments, SequenceControls
from gru_jax.typing import Array

Entry: TypeAlias = str | tuple[str, ...] | None
Entries: TypeAlias = tuple[Entry, ...]


class BatchSharding(NamedTuple):
    """How a call is spread over the explicit axes of a mesh."""

    batch: Entries  # of each batch axis
    # Mesh axes that shard parameters and not the batch. XLA partitions the loop over them.
    tensor_axes: tuple[str, ...] = ()
    is_time_sharded: bool = False  # whether time was; it is gathered
    are_params_gathered: bool = False  # whether parameters were sharded over the batch's axes

    @property
    def of_state(self) -> PartitionSpec:
        """The sharding of arrays (*batch, ...)."""
        return PartitionSpec(*self.batch)

    @property
    def of_sequence(self) -> PartitionSpec:
        """The sharding of arrays (T, *batch, ...)."""
        return PartitionSpec(None, *self.batch)

    def describe(self) -> list[str]:
        """What :func:`run_per_shard` does with a call, a line for each decision."""
        names = ", ".join(names_of(self.batch))
        lines = ["mesh: " + (f"runs per shard of the batch, over {names}" if names else REPLICATED)]
        if self.are_params_gathered:
            lines.append("mesh: parameters are gathered before the loop, gradients summed after it")
        if self.is_time_sharded:
            lines.append("mesh: sequences are sharded over time, and gathered before the loop")
        if self.tensor_axes:
            lines.append(
                f"mesh: parameters are sharded over {', '.join(self.tensor_axes)}, and XLA "
                "partitions the loop, with collectives at each step"
            )
        return lines


REPLICATED = "the batch is not sharded, each device runs all of it"


def batch_sharding(
    params: Iterable[Entries], sequences: Iterable[Entries], states: Iterable[Entries], rank: int
) -> BatchSharding:
    """How a call is spread over a mesh, by the shardings of its arrays.

    Args:
        params: of the parameters.
        sequences: of ``xs`` and flags (T, *batch, ...), the most important one first.
        states: of ``h0`` and lengths (*batch, ...).
        rank: number of batch axes.
    """
    sequences = list(sequences)
    batches = [entries[1 : 1 + rank] for entries in sequences]
    batch = merge_entries([*batches, *(entries[:rank] for entries in states)], rank)
    of_params = dict.fromkeys(name for entries in params for name in names_of(entries))
    of_batch = names_of(batch)
    return BatchSharding(
        batch,
        tensor_axes=tuple(name for name in of_params if name not in of_batch),
        is_time_sharded=any(entries and entries[0] is not None for entries in sequences),
        are_params_gathered=any(name in of_batch for name in of_params),
    )


def merge_entries(shardings: Iterable[Entries], rank: int) -> Entries:
    """For each of ``rank`` axes the first entry that is given; a mesh axis is used only once."""
    merged: list[Entry] = [None] * rank
    for entries in shardings:
        for axis, entry in enumerate(entries):
            if merged[axis] is None and not set(names_of([entry])) & set(names_of(merged)):
                merged[axis] = entry
    return tuple(merged)


def names_of(entries: Iterable[Entry]) -> list[str]:
    """The mesh axes in entries."""
    of_axes = ((entry,) if isinstance(entry, str) else entry or () for entry in entries)
    return [name for names in of_axes for name in names]


def find_batch_sharding(
    calls: Sequence[CallArguments],
) -> tuple[AbstractMesh, BatchSharding] | None:
    """The mesh of some calls and how they are spread over it; None without explicit axes.

    The calls differ in cells and states alone, as those of a layer's two directions.
    """
    mesh = _explicit_mesh(calls)
    if mesh is None:
        return None
    cell, xs, _, (lengths, mask, starts) = calls[0]
    states = (lengths, [call.h0 for call in calls])
    found = batch_sharding(
        params=_shardings([call.params for call in calls]),
        sequences=_shardings((xs, mask, starts)),
        states=_shardings(states),
        rank=xs.ndim - 1 - cell.num_feature_axes,
    )
    return mesh, found


def _explicit_mesh(calls: Sequence[CallArguments]) -> AbstractMesh | None:
    """The mesh of the context, or else of an array, if it has explicit axes.

    Outside of :func:`jax.set_mesh` arrays have a mesh, too.
    """
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(calls))
    for mesh in (jax.sharding.get_abstract_mesh(), *meshes):
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def _shardings(tree: Any) -> list[Entries]:
    return [tuple(jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves(tree)]


def run_per_shard(
    function: Callable[..., Any],
    calls: Sequence[CallArguments],
    out_specs: Callable[[BatchSharding], Any],
) -> Any:
    """``function`` of the calls, under a mesh with explicit axes on each shard of the batch.

    There all arrays are sharded as ``xs`` is, or as the first array whose type says how the batch
    is; parameters are replicated, so that their gradients are summed once.

    Args:
        function: takes the calls and whether XLA partitions them over sharded parameters; returns
            arrays.
        calls: see :func:`find_batch_sharding`.
        out_specs: the shardings of the results.
    """
    found = find_batch_sharding(calls)
    if found is None:
        return function(calls, False)
    mesh, sharding = found
    in_specs = tuple(_in_specs(call, sharding) for call in calls)
    specs = out_specs(sharding)
    is_tensor_parallel = bool(sharding.tensor_axes)
    axes = _explicit_axes(mesh) - set(sharding.tensor_axes)
    if is_tensor_parallel:
        # XLA fails to compile a program with manual axes of size 1 beside those that it partitions.
        axes = {name for name in axes if mesh.shape[name] > 1}

    def run(*calls: CallArguments) -> Any:
        return function(calls, is_tensor_parallel)

    # Outside of jax.set_mesh, the mesh of the arrays.
    with jax.sharding.use_abstract_mesh(mesh):
        placed = tuple(_place(call, mesh, sharding) for call in calls)
        if axes:
            # All axes is the default, which leaves out those that vmap maps away. No public
            # function of JAX tells which these are.
            names = frozenset() if len(axes) == len(mesh.axis_names) else frozenset(axes)
            run = jax.shard_map(run, in_specs=in_specs, out_specs=specs, axis_names=names)
        if is_tensor_parallel:
            automatic = tuple(_explicit_axes(mesh) - axes)
            run = jax.sharding.auto_axes(run, axes=automatic, out_sharding=specs)
        return run(*placed)


def _explicit_axes(mesh: AbstractMesh) -> set[str]:
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in kinds if kind == AxisType.Explicit}


def _in_specs(call: CallArguments, sharding: BatchSharding) -> CallArguments:
    state, sequence = sharding.of_state, sharding.of_sequence
    controls = SequenceControls(state, sequence, sequence)
    replicated: Any = PartitionSpec()
    return CallArguments(replicated, sequence, state, controls)


def _place(call: CallArguments, mesh: AbstractMesh, sharding: BatchSharding) -> CallArguments:
    """The arrays of a call, sharded as its specs say."""

    def reshard(leaf: Array, spec: PartitionSpec) -> Array:
        spec = PartitionSpec(*spec, *[None] * (leaf.ndim - len(spec)))
        wanted = NamedSharding(mesh, spec)
        is_placed = jax.typeof(leaf).sharding == wanted
        return leaf if is_placed else jax.sharding.reshard(leaf, wanted)

    def of_param(leaf: Array) -> PartitionSpec:
        kept = (
            tuple(name for name in names_of([entry]) if name in sharding.tensor_axes)
            for entry in jax.typeof(leaf).sharding.spec
        )
        return PartitionSpec(*(names or None for names in kept))

    def reshard_all(tree: Any, spec: PartitionSpec) -> Any:
        return jax.tree.map(lambda leaf: reshard(leaf, spec), tree)

    specs = _in_specs(call, sharding)
    params = jax.tree.map(lambda leaf: reshard(leaf, of_param(leaf)), call.params)
    rest = map(reshard_all, call.controls, specs.controls)
    return CallArguments(
        params,
        reshard_all(call.xs, specs.xs),
        reshard_all(call.h0, specs.h0),
        SequenceControls(*rest),
    )
