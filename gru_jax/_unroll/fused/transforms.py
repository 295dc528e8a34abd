"""JVP, vmap and lowering rules for a device's kernels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from gru_jax._unroll.log import log_once
from gru_jax._unroll.transform_rules import Function, vmap_reference, with_reference_jvp
from gru_jax.typing import Array

# A NamedTuple of a forward and a backward kernel.
Kernels = TypeVar("Kernels", bound=tuple[Function, ...])


class KernelInterface(NamedTuple):
    """What JAX's transformations need to know of a pair of kernels, forward and backward.

    Attributes:
        references: the pair in plain JAX, which computes the same.
        batch_axes: for each kernel, the batch axes of its arguments, a NamedTuple, and of its
            results; None for what all sequences share.
        has_copies: whether axis 0 of every array is of copies, each with weights of its own.
    """

    references: tuple[Function, ...]
    batch_axes: tuple[tuple[Any, Any], ...]
    has_copies: bool


def with_transform_rules(
    kernels: Kernels, interface: KernelInterface, platform: str | None = None
) -> Kernels:
    """Kernels that can be differentiated, mapped and lowered for any platform.

    - Derivatives of any order are those of the references.
    - :func:`jax.vmap` joins a mapped axis to the batch. Where weights are mapped, it is joined to
      the copies; kernels without copies are then replaced by the mapped reference.
    - With a ``platform`` as lowering names it (``"tpu"``, ``"cuda"``), only a program that is
      lowered for that platform alone contains the kernels. A program for another platform, or for
      several, contains the references.
    """

    def wrap(kernel: Function, reference: Function, batch_axes: tuple[Any, Any]) -> Function:
        def call(args: Any, **options: Any) -> Any:
            device = functools.partial(kernel, **options)
            plain = functools.partial(reference, **options)
            if platform is not None:
                device = lower_only_for(platform, device, plain)
            mapped = _with_vmap_rule(device, plain, batch_axes, interface.has_copies)
            return with_reference_jvp(mapped, plain)(args)

        return call

    wrapped: Any = map(wrap, kernels, interface.references, interface.batch_axes)
    return type(kernels)(*wrapped)


def _with_vmap_rule(
    kernel: Function, reference: Function, batch_axes: tuple[Any, Any], has_copies: bool
) -> Function:
    """``kernel``; under vmap with the mapped axis joined to another, or else ``reference``."""
    argument_axes, result_axes = batch_axes
    function = jax.custom_batching.custom_vmap(kernel)

    @function.def_vmap
    def rule(size: int, is_mapped: Any, args: Any) -> tuple[Any, Any]:
        fields = list(zip(args, is_mapped[0], argument_axes, strict=True))
        maps_weights = any(
            axis is None and any(jax.tree.leaves(mapped)) for _, mapped, axis in fields
        )
        if maps_weights and not has_copies:
            log_once(
                "vmap over parameters runs lax.scan in place of a fused kernel, which has one set "
                "of weights. gru_jax.explain tells more about a call."
            )
            return vmap_reference(reference, size, is_mapped, (args,))
        if size == 0:  # a kernel needs a sequence
            return vmap_reference(reference, size, is_mapped, (args,))

        def joined_axis(axis: Any) -> Any:
            return 0 if maps_weights else axis

        def join(axis: int, array: Array, mapped: bool) -> Array:
            if not mapped:
                array = jnp.broadcast_to(array, (size, *array.shape))
            array = jnp.moveaxis(array, 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def split(axis: int, array: Array) -> Array:
            array = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(array, axis, 0)

        joined = [
            field if axis is None else jax.tree.map(functools.partial(join, axis), field, mapped)
            for field, mapped, axis in ((*field, joined_axis(axis)) for *field, axis in fields)
        ]
        result = function(type(args)._make(joined))
        parts = [
            jax.tree.map(functools.partial(split, joined_axis(axis)), part)
            for part, axis in zip(result, result_axes, strict=True)
        ]
        result = jax.tree.unflatten(jax.tree.structure(result), jax.tree.leaves(parts))
        return result, jax.tree.map(lambda _: True, result)

    return function


def lower_only_for(platform: str, kernel: Function, reference: Function) -> Function:
    """``kernel`` in a program that is lowered for ``platform`` alone, ``reference`` elsewhere.

    :func:`jax.lax.platform_dependent` would put both into a program for several platforms, and
    there Pallas lowers a kernel for each of them and fails.
    """

    def call(args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)

        def flat(function: Function) -> Function:
            return lambda *leaves: jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)))

        select = functools.partial(
            _platform_select_p.bind,
            platform=platform,
            kernel=flat(kernel),
            reference=flat(reference),
        )
        results = jax.jit(select)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(reference, args)), results)

    return call


_platform_select_p = Primitive("platform_select")
_platform_select_p.multiple_results = True


@_platform_select_p.def_impl
def _run_eagerly(*arguments: Array, reference: Function, **_: Any) -> list[Array]:
    # Reached under jax.disable_jit only, which is for debugging: no program exists, and the
    # reference can be stepped through.
    return reference(*arguments)


@_platform_select_p.def_abstract_eval
def _abstract_eval(*avals: Any, reference: Function, **_: Any) -> list[Any]:
    return list(jax.make_jaxpr(reference)(*avals).out_avals)


def _lower(
    context: mlir.LoweringRuleContext,
    *arguments: Any,
    platform: str,
    kernel: Function,
    reference: Function,
) -> Sequence[Any]:
    if tuple(context.module_context.platforms) != (platform,):
        return mlir.lower_fun(reference, multiple_results=True)(context, *arguments)
    # Pallas counts in int32, and with 64 bits enabled a Python integer beside it would be int64.
    # A kernel has no array of 64 bits.
    with jax.enable_x64(False):
        return mlir.lower_fun(kernel, multiple_results=True)(context, *arguments)


mlir.register_lowering(_platform_select_p, _lower)
