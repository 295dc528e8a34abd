"""Functions that run copy by copy where :func:`jax.vmap` maps their weights.

On a CPU a matmul with an axis of copies, as of several seeds, is slower than the matmul of each
copy, whose arrays stay in the cache besides.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

Leaves = list[Any]


def run_copies_in_turn(
    function: Callable[..., Any],
    num_weights: int,
    least_copies: Callable[[int], int | None],
    batch: int = 1,
) -> Callable[..., Any]:
    """``function``, which runs for one copy after another where its weights are mapped.

    Args:
        function: takes and returns trees of arrays.
        num_weights: how many leaves of its arguments, the first ones, are weights.
        least_copies: from how many copies on it does: a function of ``batch``; None for never.
        batch: how many sequences it has for each of the original function, by earlier maps.
    """

    def call(*arguments: Any) -> Any:
        leaves, treedef = jax.tree.flatten(arguments)
        result: Any = None
        # Of each leaf of the result, the index of the argument that it is, which is not copied.
        forwarded: list[int | None] = []

        def computed(*traced: jax.Array) -> Leaves:
            nonlocal result
            values, result = jax.tree.flatten(function(*jax.tree.unflatten(treedef, traced)))
            indices = {id(leaf): index for index, leaf in enumerate(traced)}
            forwarded[:] = [indices.get(id(value)) for value in values]
            return [value for value in values if id(value) not in indices]

        jaxpr = _without_dead_code(jax.make_jaxpr(computed)(*leaves))
        options = {"num_weights": num_weights, "least_copies": least_copies, "batch": batch}
        values = iter(_copies.bind(*leaves, jaxpr=jaxpr, **options))
        return jax.tree.unflatten(
            result, [next(values) if index is None else leaves[index] for index in forwarded]
        )

    return call


def _without_dead_code(closed: Any) -> Any:
    """What JAX sees to by itself where it sees into the function."""
    jaxpr, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals), instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


_copies = Primitive("copies_in_turn")
_copies.multiple_results = True


@_copies.def_impl
def _impl(*leaves: jax.Array, jaxpr: ClosedJaxpr, **_: Any) -> Leaves:
    return jaxpr_as_fun(jaxpr)(*leaves)


@_copies.def_abstract_eval
def _abstract_eval(*avals: Any, jaxpr: ClosedJaxpr, **_: Any) -> Leaves:
    del avals
    return list(jaxpr.out_avals)


def _jvp_rule(
    primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr, **_: Any
) -> tuple[Leaves, Leaves]:
    # Forward mode and second derivatives.
    instantiated = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), instantiated)


def _batching_rule(
    leaves: Sequence[Any],
    axes: Sequence[int | None],
    *,
    jaxpr: ClosedJaxpr,
    num_weights: int,
    least_copies: Callable[[int], int | None],
    batch: int,
) -> tuple[Leaves, list[int]]:
    function = jaxpr_as_fun(jaxpr)
    pairs = list(zip(leaves, axes, strict=True))
    size = next(leaf.shape[axis] for leaf, axis in pairs if axis is not None)
    moved = [leaf if axis is None else jnp.moveaxis(leaf, axis, 0) for leaf, axis in pairs]
    has_mapped_weights = any(axis is not None for axis in axes[:num_weights])
    least = least_copies(batch)
    if has_mapped_weights and least is not None and size >= least:

        def one_copy(mapped: Leaves) -> Leaves:
            of_copy = iter(mapped)
            return function(
                *[
                    leaf if axis is None else next(of_copy)
                    for leaf, axis in zip(moved, axes, strict=True)
                ]
            )

        mapped = [leaf for leaf, axis in zip(moved, axes, strict=True) if axis is not None]
        values = lax.map(one_copy, mapped)
    else:
        every_copy = jax.vmap(function, [None if axis is None else 0 for axis in axes])
        values = run_copies_in_turn(every_copy, num_weights, least_copies, batch * size)(*moved)
    return values, [0] * len(values)


ad.primitive_jvps[_copies] = _jvp_rule
batching.primitive_batchers[_copies] = _batching_rule
mlir.register_lowering(_copies, mlir.lower_fun(_impl, multiple_results=True))
