"""A custom VJP that keeps forward mode."""

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
    """``function`` with ``pullback`` as its reverse mode and JAX's forward mode.

    :class:`jax.custom_vjp` gives up ``jvp``, ``jacfwd``, ``hessian`` and ``linearize``. Here the
    tangents are ``jax.jvp`` of ``function``, a linear map whose transpose alone is custom, so that
    every transformation works, in any order. ``jax.custom_derivatives.linear_call`` is JAX's
    relative of that map; it supports neither ``vmap`` nor derivatives of its residuals.

    Args:
        function: takes positional arguments, trees of arrays.
        forward: ``arguments -> (value, residuals)``, runs in place of ``function`` if anything is
            differentiated.
        pullback: ``(residuals, cotangent of the value) -> cotangents of the arguments``, one
            tree for each; those of arguments without a derivative are not read.
    """

    @jax.custom_jvp
    def differentiable(*arguments: Tree) -> Tree:
        return function(*arguments)

    def rule(primals: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> tuple[Tree, Tree]:
        value, saved = forward(*primals)
        treedef = jax.tree.structure(primals)
        tangent_leaves = treedef.flatten_up_to(tangents)
        nonzero = tuple(index for index, leaf in enumerate(tangent_leaves) if not _is_zero(leaf))
        residuals, residuals_treedef = jax.tree.flatten((primals, saved))
        value_leaves, value_treedef = jax.tree.flatten(value)

        def fun(residuals: list[jax.Array], linear_args: list[jax.Array]) -> list[jax.Array]:
            primals, _ = jax.tree.unflatten(residuals_treedef, residuals)
            leaves = jax.tree.leaves(primals)

            def of_nonzero(*nonzero_leaves: jax.Array) -> Tree:
                changed = list(leaves)
                for index, leaf in zip(nonzero, nonzero_leaves, strict=True):
                    changed[index] = leaf
                return function(*jax.tree.unflatten(treedef, changed))

            at = tuple(leaves[index] for index in nonzero)
            return jax.tree.leaves(jax.jvp(of_nonzero, at, tuple(linear_args))[1])

        def fun_transpose(
            residuals: list[jax.Array], cotangent: list[jax.Array]
        ) -> list[jax.Array]:
            _, saved = jax.tree.unflatten(residuals_treedef, residuals)
            pulled = pullback(saved, jax.tree.unflatten(value_treedef, cotangent))
            pulled_leaves = treedef.flatten_up_to(pulled)
            return [pulled_leaves[index] for index in nonzero]

        tangents_out = _linear.bind(
            *residuals,
            *(tangent_leaves[index] for index in nonzero),
            call=_LinearCall(
                fun, fun_transpose, len(residuals), tuple(map(jax.typeof, value_leaves))
            ),
        )
        return value, jax.tree.unflatten(value_treedef, tangents_out)

    differentiable.defjvp(rule, symbolic_zeros=True)
    return differentiable


def _is_zero(tangent: Any) -> bool:
    return (
        isinstance(tangent, jax.custom_derivatives.SymbolicZero)
        or tangent.dtype == jax.dtypes.float0
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _LinearCall:
    """A function linear in some of its arguments, and its transpose."""

    fun: Callable[[Any, Any], list[jax.Array]]  # (residuals, linear arguments) -> values
    fun_transpose: Callable[[Any, Any], list[jax.Array]]  # (residuals, cotangents) -> cotangents
    num_residuals: int  # how many arguments are residuals; they come first
    avals: tuple[Any, ...] | None = None  # types of the values; None: found by tracing fun

    def __call__(self, *arguments: jax.Array) -> list[jax.Array]:
        return self.fun(
            list(arguments[: self.num_residuals]), list(arguments[self.num_residuals :])
        )


_linear = Primitive("linear_call")
_linear.multiple_results = True


@_linear.def_impl
def _impl(*arguments: jax.Array, call: _LinearCall) -> list[jax.Array]:
    return call(*arguments)


@_linear.def_abstract_eval
def _abstract_eval(*avals: Any, call: _LinearCall) -> list[Any]:
    return list(call.avals or jax.make_jaxpr(call)(*avals).out_avals)


mlir.register_lowering(_linear, mlir.lower_fun(_impl, multiple_results=True))


def _jvp_rule(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: _LinearCall
) -> tuple[list[Any], list[Any]]:
    # Only second derivatives get here: they differentiate in the residuals, too.
    return jax.jvp(call, tuple(primals), tuple(ad.instantiate_zeros(t) for t in tangents))


def _transpose_rule(cotangents: Sequence[Any], *arguments: Any, call: _LinearCall) -> list[Any]:
    residuals = list(arguments[: call.num_residuals])
    pulled = call.fun_transpose(
        residuals, [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    )
    return [None] * call.num_residuals + [
        cotangent if ad.is_undefined_primal(argument) else None
        for cotangent, argument in zip(pulled, arguments[call.num_residuals :], strict=True)
    ]


def _batching_rule(
    arguments: Sequence[Any], axes: Sequence[Any], *, call: _LinearCall
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
    residuals, linear_args = arguments[: call.num_residuals], arguments[call.num_residuals :]
    # A cotangent is mapped if anything is. An argument that is not mapped is broadcast first; the
    # transpose of that sums its cotangents.
    linear_args = [
        argument if mapped else jnp.broadcast_to(argument, (size, *argument.shape))
        for argument, mapped in zip(linear_args, is_mapped[call.num_residuals :], strict=True)
    ]
    in_axes = ([0 if mapped else None for mapped in is_mapped[: call.num_residuals]], 0)
    fun, fun_transpose = jax.vmap(call.fun, in_axes), jax.vmap(call.fun_transpose, in_axes)
    values = _linear.bind(
        *residuals, *linear_args, call=_LinearCall(fun, fun_transpose, call.num_residuals)
    )
    return values, [0] * len(values)


ad.primitive_jvps[_linear] = _jvp_rule
ad.primitive_transposes[_linear] = _transpose_rule
batching.primitive_batchers[_linear] = _batching_rule
