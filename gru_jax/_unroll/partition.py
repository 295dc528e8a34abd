"""Programs that XLA partitions: each device runs the sequences that it holds.

Along the automatic axes of a mesh, shardings are known only once XLA compiles the program. By
itself, XLA gathers the batch in each chunk of the backward pass, where a reshape joins time and
batch. :class:`jax.experimental.custom_partitioning.custom_partitioning` tells it what to do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_jax._unroll.mesh import Entries, merge_entries, names_of

Leaves = list[jax.Array]

NO_BATCH = -1
"""In place of a batch axis: an argument that all sequences share, a result summed over them."""


def partition_derivative(
    function: Callable[..., Any],
    forward: Callable[..., tuple[Any, Any]],
    pullback: Callable[[Any, Any], tuple[Any, ...]],
    *,
    rank: int,
    others: int = 0,
) -> tuple[Any, Any, Any]:
    """:func:`partition_over_batch` of the functions of a call and of its derivative.

    Args:
        function, forward, pullback: as for
            :func:`~gru_jax._autodiff.custom_vjp.custom_vjp_with_jvp`. Arguments are a cell,
            :class:`ScanInputs`, the first state and ``others`` that all sequences share; the value
            is the last state and the outputs. ``forward`` saves its arguments and then residuals
            (T, *batch, ...), in a tuple.
        rank: number of batch axes.
        others: number of further arguments.
    """
    arguments = (NO_BATCH, 1, 0, *[NO_BATCH] * others)
    value, residuals = (0, 1), 1
    count = len(arguments)

    def value_and_residuals(*arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        value, saved = forward(*arguments)
        return value, tuple(saved[count:])

    partitioned = partition_over_batch(
        value_and_residuals, arguments, (value, residuals), rank=rank
    )

    def forward_saving_arguments(*arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        value, residuals = partitioned(*arguments)
        return value, (*arguments, *residuals)

    def pullback_of(*saved_and_cotangents: Any) -> tuple[Any, ...]:
        *shared, residuals, cotangents = saved_and_cotangents
        return pullback((*shared, *residuals), cotangents)

    partitioned_pullback = partition_over_batch(
        pullback_of, (*arguments, residuals, value), arguments, rank=rank
    )

    def pullback_of_saved(saved: Any, cotangents: Any) -> tuple[Any, ...]:
        return partitioned_pullback(*saved[:count], saved[count:], cotangents)

    return (
        partition_over_batch(function, arguments, value, rank=rank),
        forward_saving_arguments,
        pullback_of_saved,
    )


def partition_over_batch(
    function: Callable[..., Any], in_axes: Any, out_axes: Any, *, rank: int
) -> Callable[..., Any]:
    """``function``, run on each device for the sequences that it holds if XLA partitions it.

    In a program for one device, and where all axes of a mesh are manual, it is the function itself.

    Args:
        function: takes and returns trees of arrays; sequences do not depend on each other.
        in_axes: where each argument's batch axes begin, or :data:`NO_BATCH`; a prefix of the tree.
        out_axes: the same for the results.
        rank: number of batch axes.
    """

    def call(*arguments: Any) -> Any:
        leaves, treedef = jax.tree.flatten(arguments)

        def flat(*leaves: jax.Array) -> Leaves:
            return jax.tree.leaves(function(*jax.tree.unflatten(treedef, leaves)))

        result = jax.eval_shape(function, *arguments)
        of_leaves = tuple(jax.tree.leaves(jax.tree.broadcast(in_axes, arguments)))
        of_results = tuple(jax.tree.leaves(jax.tree.broadcast(out_axes, result)))
        values = _bind(flat, of_leaves, of_results, rank, leaves)
        return jax.tree.unflatten(jax.tree.structure(result), values)

    return call


def _bind(
    function: Callable[..., Leaves],
    in_axes: tuple[int, ...],
    out_axes: tuple[int, ...],
    rank: int,
    leaves: Sequence[Any],
) -> Leaves:
    jaxpr = jax.make_jaxpr(function)(*leaves)
    axes: dict[str, Any] = {"in_axes": in_axes, "out_axes": out_axes, "rank": rank}
    # Both are traced here: JAX tells a lowering rule of the program's devices only if it finds
    # custom_partitioning in the jaxpr of the program.
    partitioned = jax.make_jaxpr(_with_partitioning(jaxpr, function, **axes))(*leaves)
    traced = {"jaxpr": jaxpr, "partitioned": partitioned}
    return _partitioned.bind(*leaves, **traced, function=function, **axes)


_partitioned = Primitive("partitioned_over_batch")
_partitioned.multiple_results = True


@_partitioned.def_impl
def _impl(*leaves: jax.Array, jaxpr: ClosedJaxpr, **_: Any) -> Leaves:
    return jaxpr_as_fun(jaxpr)(*leaves)


@_partitioned.def_abstract_eval
def _abstract_eval(*avals: Any, jaxpr: ClosedJaxpr, **_: Any) -> list[Any]:
    del avals
    return list(jaxpr.out_avals)


def _jvp_rule(
    primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr, **options: Any
) -> tuple[Leaves, Leaves]:
    # Forward mode and second derivatives, which XLA partitions by itself.
    values = _partitioned.bind(*primals, jaxpr=jaxpr, **options)
    instantiated = tuple(map(ad.instantiate_zeros, tangents))
    return values, jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), instantiated)[1]


def _batching_rule(
    leaves: Sequence[Any],
    mapped_axes: Sequence[int | None],
    *,
    function: Callable[..., Leaves],
    in_axes: tuple[int, ...],
    out_axes: tuple[int, ...],
    rank: int,
    **_: Any,
) -> tuple[Leaves, list[int]]:
    moved = [
        leaf if axis is None else jnp.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves, mapped_axes, strict=True)
    ]
    vmap_axes = [None if axis is None else 0 for axis in mapped_axes]

    def shifted(axis: int, mapped: int | None) -> int:
        return axis if axis == NO_BATCH or mapped is None else axis + 1

    mapped_function = jax.vmap(function, vmap_axes)
    in_axes = tuple(map(shifted, in_axes, vmap_axes))
    out_axes = tuple(shifted(axis, 0) for axis in out_axes)
    values = _bind(mapped_function, in_axes, out_axes, rank, moved)
    return values, [0] * len(values)


def _lower(
    context: mlir.LoweringRuleContext,
    *operands: Any,
    jaxpr: ClosedJaxpr,
    partitioned: ClosedJaxpr,
    **_: Any,
) -> Sequence[Any]:
    # None of jax.shard_map's context, and of a program for devices that are not known.
    devices = getattr(context.module_context.axis_context, "device_assignment", None)
    is_exported = context.module_context.lowering_parameters.for_export
    is_whole = devices is None or len(devices) == 1 or is_exported
    function = jaxpr_as_fun(jaxpr if is_whole else partitioned)
    return mlir.lower_fun(function, multiple_results=True)(context, *operands)


def _with_partitioning(
    jaxpr: ClosedJaxpr,
    function: Callable[..., Leaves],
    in_axes: tuple[int, ...],
    out_axes: tuple[int, ...],
    rank: int,
) -> Callable[..., Leaves]:
    """``jaxpr`` as a function; each device runs ``function`` of its arrays if it is partitioned."""
    # Whoever needs this has several devices, and no other user has to wait for its import.
    from jax.experimental.custom_partitioning import custom_partitioning

    # JAX rejects a function that captures arrays, so those of the jaxpr are its first arguments.
    captured = len(jaxpr.consts)
    in_axes = (*[NO_BATCH] * captured, *in_axes)

    def partition(
        mesh: Mesh, arguments: Sequence[Any], results: Sequence[Any]
    ) -> tuple[Mesh, Callable[..., Leaves], list[NamedSharding], tuple[NamedSharding, ...]]:
        shardings: list[Entries] = []
        for argument, axis in zip(arguments, in_axes, strict=True):
            entries = (*argument.sharding.spec, *[None] * len(argument.shape))
            shardings += [] if axis == NO_BATCH else [entries[axis : axis + rank]]
        batch = merge_entries(shardings, rank)
        names = tuple(names_of(batch))

        def sharding_of(axis: int) -> NamedSharding:
            entries = () if axis == NO_BATCH else (*[None] * axis, *batch)
            return NamedSharding(mesh, PartitionSpec(*entries))

        def run(*leaves: jax.Array) -> Leaves:
            return [
                lax.psum(value, names) if axis == NO_BATCH and names else value
                for value, axis in zip(function(*leaves[captured:]), out_axes, strict=True)
            ]

        del results
        return mesh, run, list(map(sharding_of, out_axes)), tuple(map(sharding_of, in_axes))

    def evaluate(*leaves: jax.Array) -> Leaves:
        closed = ClosedJaxpr(jaxpr.jaxpr, leaves[:captured])
        return jaxpr_as_fun(closed)(*leaves[captured:])

    # A function of its own, whose rule is set here.
    partitioned = custom_partitioning(evaluate)
    in_avals = [*map(jax.typeof, jaxpr.consts), *jaxpr.in_avals]
    rule, whole = _sharding_rule(in_avals, jaxpr.out_avals, in_axes, out_axes, rank)
    partitioned.def_partition(
        partition=partition, sharding_rule=rule, need_replication_factors=whole
    )
    return lambda *leaves: partitioned(*jaxpr.consts, *leaves)


def _sharding_rule(
    in_avals: Sequence[Any],
    out_avals: Sequence[Any],
    in_axes: Sequence[int],
    out_axes: Sequence[int],
    rank: int,
) -> tuple[str, tuple[str, ...]]:
    """Shardy's rule: batch axes are sharded alike; and the names of all others, which are not."""
    whole: list[str] = []

    def factors(aval: Any, first: int) -> str:
        names = []
        for axis in range(aval.ndim):
            if first != NO_BATCH and first <= axis < first + rank:
                names.append(f"batch{axis - first}")
            else:
                whole.append(f"whole{len(whole)}")
                names.append(whole[-1])
        return " ".join(names)

    operands, results = (
        ", ".join(map(factors, avals, axes))
        for avals, axes in ((in_avals, in_axes), (out_avals, out_axes))
    )
    return f"{operands} -> {results}", tuple(whole)


ad.primitive_jvps[_partitioned] = _jvp_rule
batching.primitive_batchers[_partitioned] = _batching_rule
mlir.register_lowering(_partitioned, _lower)
