"""A custom VJP that keeps forward mode."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

Tree = Any
Leaves = list[jax.Array]
P = ParamSpec("P")
T = TypeVar("T")


def custom_vjp_with_jvp(
    function: Callable[..., Tree],
    forward: Callable[..., tuple[Tree, Tree]],
    pullback: Callable[[Tree, Tree], tuple[Tree, ...]],
    wrap: Callable[[Callable[..., Tree]], Callable[..., Tree]] = lambda function: function,
    *,
    map_axes: Tree = 0,
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
        wrap: of ``forward``, and of ``pullback`` as a function whose first arguments are those of
            ``forward`` and which computes no more than what is read.
        map_axes: where the value has its axis of copies under ``vmap``, a prefix of its tree.
    """
    forward = wrap(forward)

    @jax.custom_jvp
    def differentiable(*arguments: Tree) -> Tree:
        return _set_map_axes(function(*arguments), arguments, map_axes)

    def rule(primals: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> tuple[Tree, Tree]:
        value, saved = forward(*primals)
        value = _set_map_axes(value, primals, map_axes)
        treedef = jax.tree.structure(primals)
        tangent_leaves = treedef.flatten_up_to(tangents)
        nonzero = [index for index, leaf in enumerate(tangent_leaves) if not _is_zero(leaf)]
        residuals, residuals_treedef = jax.tree.flatten((primals, saved))
        value_leaves, value_treedef = jax.tree.flatten(value)

        @_keep_precision
        def fun(residuals: Leaves, linear_args: Leaves) -> Leaves:
            primals, _ = jax.tree.unflatten(residuals_treedef, residuals)
            leaves = jax.tree.leaves(primals)

            def of_nonzero(*nonzero_leaves: jax.Array) -> Tree:
                changed = list(leaves)
                for index, leaf in zip(nonzero, nonzero_leaves, strict=True):
                    changed[index] = leaf
                return function(*jax.tree.unflatten(treedef, changed))

            at = tuple(leaves[index] for index in nonzero)
            return jax.tree.leaves(jax.jvp(of_nonzero, at, tuple(linear_args))[1])

        @_keep_precision
        def fun_transpose(residuals: Leaves, cotangent: Leaves) -> Leaves:
            _, saved = jax.tree.unflatten(residuals_treedef, residuals)
            pulled = pullback(saved, jax.tree.unflatten(value_treedef, cotangent))
            pulled_leaves = treedef.flatten_up_to(pulled)
            return [pulled_leaves[index] for index in nonzero]

        avals = tuple(map(jax.typeof, value_leaves))
        call = _LinearCall(fun, wrap(fun_transpose), len(residuals), avals)
        linear_args = [tangent_leaves[index] for index in nonzero]
        tangents_out = _linear.bind(*residuals, *linear_args, call=call)
        return value, jax.tree.unflatten(value_treedef, tangents_out)

    differentiable.defjvp(rule, symbolic_zeros=True)
    return differentiable


def _keep_precision(function: Callable[P, T]) -> Callable[P, T]:
    """The function under the ``jax.default_matmul_precision`` of now, whenever it is called.

    JAX traces a transpose where the gradient is taken, which may be outside of the context in which
    the function itself was called.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]

    @functools.wraps(function)
    def with_precision(*arguments: P.args, **options: P.kwargs) -> T:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **options)

    return with_precision


def _is_zero(tangent: Any) -> bool:
    return (
        isinstance(tangent, jax.custom_derivatives.SymbolicZero)
        or tangent.dtype == jax.dtypes.float0
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _LinearCall:
    """A function linear in some of its arguments, and its transpose."""

    fun: Callable[[Any, Any], Leaves]  # (residuals, linear arguments) -> values
    fun_transpose: Callable[[Any, Any], Leaves]  # (residuals, cotangents) -> cotangents
    num_residuals: int  # how many arguments are residuals; they come first
    avals: tuple[Any, ...] | None = None  # types of the values; None: found by tracing fun

    def __call__(self, *arguments: jax.Array) -> Leaves:
        return self.fun(*self.split(arguments))

    def split(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The residuals, and the arguments in which the function is linear."""
        return list(arguments[: self.num_residuals]), list(arguments[self.num_residuals :])


_linear = Primitive("linear_call")
_linear.multiple_results = True


@_linear.def_impl
def _impl(*arguments: jax.Array, call: _LinearCall) -> Leaves:
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
    residuals, linear_args = call.split(arguments)
    pulled = call.fun_transpose(residuals, list(map(ad.instantiate_zeros, cotangents)))
    return [None] * call.num_residuals + [
        cotangent if ad.is_undefined_primal(argument) else None
        for cotangent, argument in zip(pulled, linear_args, strict=True)
    ]


def _batching_rule(
    arguments: Sequence[Any], axes: Sequence[Any], *, call: _LinearCall
) -> tuple[list[Any], list[int]]:
    pairs = list(zip(arguments, axes, strict=True))
    size = next(argument.shape[axis] for argument, axis in pairs if axis is not None)
    moved = [
        argument if axis is None else jnp.moveaxis(argument, axis, 0) for argument, axis in pairs
    ]
    residuals, linear_args = call.split(moved)
    residual_axes, linear_axes = call.split([None if axis is None else 0 for axis in axes])
    # A cotangent is mapped if anything is. An argument that is not mapped is broadcast first; the
    # transpose of that sums its cotangents.
    linear_args = [
        jnp.broadcast_to(argument, (size, *argument.shape)) if axis is None else argument
        for argument, axis in zip(linear_args, linear_axes, strict=True)
    ]
    mapped = [array for array, axis in zip(residuals, residual_axes, strict=True) if axis == 0]
    alike = iter(_shard_alike([*mapped, *linear_args]))
    residuals = [
        array if axis is None else next(alike)
        for array, axis in zip(residuals, residual_axes, strict=True)
    ]
    linear_args = list(alike)
    in_axes = (residual_axes, 0)
    fun, fun_transpose = jax.vmap(call.fun, in_axes), jax.vmap(call.fun_transpose, in_axes)
    mapped_call = _LinearCall(fun, fun_transpose, call.num_residuals)
    values = _linear.bind(*residuals, *linear_args, call=mapped_call)
    return values, [0] * len(values)


def _set_map_axes(value: Tree, arguments: Tree, map_axes: Tree) -> Tree:
    """``value``, in which ``vmap`` puts its axis at ``map_axes`` if it maps any of the arguments.

    JAX maps a function and its rule one by one, if both are in a ``jit``, and expects the axis of
    the function's value in that of the rule, too.
    """
    leaves, treedef = jax.tree.flatten(value)
    axes = jax.tree.leaves(jax.tree.broadcast(map_axes, value))
    read = jax.tree.leaves(arguments)
    placed = [_placed.bind(leaf, *read, at=axis) for leaf, axis in zip(leaves, axes, strict=True)]
    return jax.tree.unflatten(treedef, placed)


_placed = Primitive("place_map_axis")
_placed.def_impl(lambda leaf, *read, at: leaf)
_placed.def_abstract_eval(lambda leaf, *read, at: leaf)


def _placed_jvp_rule(
    primals: Sequence[Any], tangents: Sequence[Any], *, at: int
) -> tuple[jax.Array, Any]:
    value, *read = primals
    tangent = ad.instantiate_zeros(tangents[0])
    return _placed.bind(value, *read, at=at), _placed.bind(tangent, *read, at=at)


def _placed_batching_rule(
    arrays: Sequence[jax.Array], axes: Sequence[int | None], *, at: int
) -> tuple[jax.Array, int]:
    (leaf, *read), old = arrays, axes[0]
    if old is None:
        pairs = zip(arrays, axes, strict=True)
        size = next(array.shape[axis] for array, axis in pairs if axis is not None)
        shape = (*leaf.shape[:at], size, *leaf.shape[at:])
        leaf = jnp.broadcast_to(jnp.expand_dims(leaf, at), shape)
    else:
        leaf = jnp.moveaxis(leaf, old, at)
    return _placed.bind(leaf, *read, at=at), at


ad.primitive_jvps[_placed] = _placed_jvp_rule
ad.primitive_transposes[_placed] = lambda cotangent, *arrays, at: [
    cotangent,
    *[None] * (len(arrays) - 1),
]
batching.primitive_batchers[_placed] = _placed_batching_rule
mlir.register_lowering(_placed, lambda context, leaf, *read, at: [leaf])


def _shard_alike(arrays: Leaves) -> Leaves:
    """The arrays with their leading axes sharded as that of the first one which is.

    Under a mesh with explicit axes, vmap asks for that.
    """
    shardings = [jax.typeof(array).sharding for array in arrays]
    sharded = next((each for each in shardings if each.spec[0] is not None), None)
    if sharded is None:
        return arrays

    def reshard(array: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.spec[0] is not None:
            return array
        spec = PartitionSpec(sharded.spec[0], *sharding.spec[1:])
        return jax.sharding.reshard(array, NamedSharding(sharded.mesh, spec))

    return list(map(reshard, arrays, shardings))


ad.primitive_jvps[_linear] = _jvp_rule
ad.primitive_transposes[_linear] = _transpose_rule
batching.primitive_batchers[_linear] = _batching_rule
