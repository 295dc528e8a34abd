"""A function with a pullback of its own, which keeps forward mode."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = Any


def custom_vjp_with_jvp(
    function: Callable[..., Tree],
    forward: Callable[..., tuple[Tree, Tree]],
    pullback: Callable[[Tree, Tree], tuple[Tree, ...]],
) -> Callable[..., Tree]:
    """``function`` whose reverse mode is ``pullback``, and whose forward mode is JAX's.

    :class:`jax.custom_vjp` gives up ``jvp``, ``jacfwd``, ``hessian`` and ``linearize``. Here the
    tangents are a linear map like any other, ``jax.jvp`` of ``function``; only how that map is
    transposed is said by hand. So every transformation holds, in any order.

    Args:
        function: of positional arguments, trees of arrays.
        forward: ``arguments -> (value, residuals)``, run in place of ``function`` where there
            is something to differentiate.
        pullback: ``(residuals, cotangent of the value) -> cotangents of the arguments``, one
            tree for each; what stands for arguments without a derivative is not read.
    """

    @jax.custom_jvp
    def differentiable(*arguments: Tree) -> Tree:
        return function(*arguments)

    def rule(primals: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> tuple[Tree, Tree]:
        value, residuals = forward(*primals)
        structure = jax.tree.structure(primals)
        tangent_leaves = structure.flatten_up_to(tangents)
        live = tuple(index for index, leaf in enumerate(tangent_leaves) if not _is_zero(leaf))
        known, known_structure = jax.tree.flatten((primals, residuals))
        value_leaves, value_structure = jax.tree.flatten(value)

        def push(known: list[jax.Array], moved: list[jax.Array]) -> list[jax.Array]:
            primals, _ = jax.tree.unflatten(known_structure, known)
            leaves = jax.tree.leaves(primals)

            def of_live(*live_leaves: jax.Array) -> Tree:
                changed = list(leaves)
                for index, leaf in zip(live, live_leaves, strict=True):
                    changed[index] = leaf
                return function(*jax.tree.unflatten(structure, changed))

            at = tuple(leaves[index] for index in live)
            return jax.tree.leaves(jax.jvp(of_live, at, tuple(moved))[1])

        def pull(known: list[jax.Array], cotangent: list[jax.Array]) -> list[jax.Array]:
            _, residuals = jax.tree.unflatten(known_structure, known)
            pulled = pullback(residuals, jax.tree.unflatten(value_structure, cotangent))
            pulled_leaves = structure.flatten_up_to(pulled)
            return [pulled_leaves[index] for index in live]

        moved = _linear.bind(
            *known,
            *(tangent_leaves[index] for index in live),
            map=_LinearMap(push, pull, len(known), tuple(map(jax.typeof, value_leaves))),
        )
        return value, jax.tree.unflatten(value_structure, moved)

    differentiable.defjvp(rule, symbolic_zeros=True)
    return differentiable


def _is_zero(tangent: Any) -> bool:
    return (
        isinstance(tangent, jax.custom_derivatives.SymbolicZero)
        or tangent.dtype == jax.dtypes.float0
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _LinearMap:
    """A linear map of some arguments, given others, and its transpose.

    Attributes:
        push: ``(known, moved) -> values``, linear in ``moved``.
        pull: ``(known, cotangents of the values) -> cotangents of moved``.
        num_known: how many arguments are known, which come first.
        types: of the values; None where they are found by tracing ``push``.
    """

    push: Callable[[list[jax.Array], list[jax.Array]], list[jax.Array]]
    pull: Callable[[list[jax.Array], list[jax.Array]], list[jax.Array]]
    num_known: int
    types: tuple[Any, ...] | None = None

    def __call__(self, *arguments: jax.Array) -> list[jax.Array]:
        return self.push(list(arguments[: self.num_known]), list(arguments[self.num_known :]))


_linear = Primitive("linear_with_transpose")
_linear.multiple_results = True


@_linear.def_impl
def _apply(*arguments: jax.Array, map: _LinearMap) -> list[jax.Array]:
    return map(*arguments)


@_linear.def_abstract_eval
def _types(*avals: Any, map: _LinearMap) -> list[Any]:
    return list(map.types or jax.make_jaxpr(map)(*avals).out_avals)


mlir.register_lowering(_linear, mlir.lower_fun(_apply, multiple_results=True))


def _differentiate(
    primals: Sequence[Any], tangents: Sequence[Any], *, map: _LinearMap
) -> tuple[list[Any], list[Any]]:
    # Only second derivatives come here: the map moved along, and moved in what it is given.
    return jax.jvp(map, tuple(primals), tuple(ad.instantiate_zeros(t) for t in tangents))


def _transpose(cotangents: Sequence[Any], *arguments: Any, map: _LinearMap) -> list[Any]:
    known = list(arguments[: map.num_known])
    pulled = map.pull(known, [ad.instantiate_zeros(cotangent) for cotangent in cotangents])
    return [None] * map.num_known + [
        cotangent if ad.is_undefined_primal(argument) else None
        for cotangent, argument in zip(pulled, arguments[map.num_known :], strict=True)
    ]


def _vectorize(
    arguments: Sequence[Any], axes: Sequence[Any], *, map: _LinearMap
) -> tuple[list[Any], list[int]]:
    is_mapped = [axis is not None for axis in axes]
    size = next(
        argument.shape[axis]
        for argument, axis, mapped in zip(arguments, axes, is_mapped, strict=True)
        if mapped
    )
    arguments = [
        jnp.moveaxis(argument, axis, 0) if mapped else argument
        for argument, axis, mapped in zip(arguments, axes, is_mapped, strict=True)
    ]
    known, moved = arguments[: map.num_known], arguments[map.num_known :]
    # A cotangent is mapped if anything is; what is not is repeated first, and transposing that
    # adds the cotangents up.
    moved = [
        argument if mapped else jnp.broadcast_to(argument, (size, *argument.shape))
        for argument, mapped in zip(moved, is_mapped[map.num_known :], strict=True)
    ]
    in_axes = ([0 if mapped else None for mapped in is_mapped[: map.num_known]], 0)
    push, pull = jax.vmap(map.push, in_axes), jax.vmap(map.pull, in_axes)
    values = _linear.bind(*known, *moved, map=_LinearMap(push, pull, map.num_known))
    return values, [0] * len(values)


ad.primitive_jvps[_linear] = _differentiate
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _vectorize
