"""Device kernels made to obey JAX: derivatives, `vmap`, and programs for several platforms."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from gru_jax._unroll.fused.interface import REFERENCE, Kernels
from gru_jax.typing import Array

Function = Callable[..., Any]


def transformable(kernels: Kernels, platform: str | None = None) -> Kernels:
    """A pair that can be differentiated and mapped, and be part of a program for any platform.

    - Derivatives of any order are those of the reference.
    - Under :func:`jax.vmap`, what is mapped joins the batch; where weights are mapped, too, it is
      the reference that runs.
    - With a ``platform``, as lowering names them (``"tpu"``, ``"cuda"``), the pair is what a
      program contains that is lowered for that alone. One for another, or for several, contains
      the reference.
    """

    def behave(
        kernel: Function, reference: Function, batch_axes: tuple[int | None, ...]
    ) -> Function:
        def call(*arguments: Any, **options: Any) -> Any:
            device = functools.partial(kernel, **options)
            plain = functools.partial(reference, **options)
            if platform is not None:
                device = _only_on(platform, device, plain)
            return _with_derivative(_with_batching(device, plain, batch_axes), plain)(*arguments)

        return call

    # Of each argument of a kernel, in order, which axis is the batch.
    forward = (1, None, None, 0, 0, 1, 1)
    backward = (1, 1, 1, None, 0)
    return Kernels(
        behave(kernels.forward, REFERENCE.forward, forward),
        behave(kernels.backward, REFERENCE.backward, backward),
    )


def untransformed(function: Function, reference: Function) -> Function:
    """``function``; where it is differentiated or mapped, ``reference``, which gives the same."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(size: int, is_mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda mapped: 0 if mapped else None, tuple(is_mapped))
        values = jax.vmap(reference, axes, axis_size=size)(*arguments)
        return values, jax.tree.map(lambda _: True, values)

    return _with_derivative(mapped, reference)


def _with_derivative(kernel: Function, reference: Function) -> Function:
    """``kernel`` with the derivative of ``reference``."""
    function = jax.custom_jvp(kernel)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        return function(*primals), jax.jvp(reference, primals, tangents)[1]

    function.defjvp(rule)
    return function


def _with_batching(
    kernel: Function, reference: Function, batch_axes: tuple[int | None, ...]
) -> Function:
    """``kernel`` mapped by joining a mapped axis to the batch, ``reference`` where it cannot be."""
    function = jax.custom_batching.custom_vmap(kernel)

    @function.def_vmap
    def rule(size: int, is_mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        outputs_are_mapped = (True, True)
        if any(
            axis is None and any(jax.tree.leaves(mapped))
            for axis, mapped in zip(batch_axes, is_mapped, strict=True)
        ):
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped)
            return jax.vmap(reference, axes, axis_size=size)(*arguments), outputs_are_mapped

        def join(axis: int, array: Array, mapped: bool) -> Array:
            if not mapped:
                array = jnp.broadcast_to(array, (size, *array.shape))
            array = jnp.moveaxis(array, 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def part(axis: int, array: Array) -> Array:
            parted = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(parted, axis, 0)

        joined = [
            argument
            if axis is None
            else jax.tree.map(functools.partial(join, axis), argument, mapped)
            for argument, mapped, axis in zip(arguments, is_mapped, batch_axes, strict=True)
        ]
        steps, last = function(*joined)
        return (part(1, steps), part(0, last)), outputs_are_mapped

    return function


def _only_on(platform: str, kernel: Function, reference: Function) -> Function:
    """``kernel`` in a program that is lowered for ``platform`` alone, ``reference`` elsewhere.

    :func:`jax.lax.platform_dependent` would put both into a program for several platforms, and
    there Pallas lowers a kernel for each of them and fails.
    """

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        choice = _Choice(platform, _of_leaves(kernel, structure), _of_leaves(reference, structure))
        return tuple(jax.jit(functools.partial(_choose.bind, choice=choice))(*leaves))

    return call


def _of_leaves(function: Function, structure: Any) -> Function:
    return lambda *leaves: list(function(*jax.tree.unflatten(structure, leaves)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Choice:
    """Two functions of the same arrays, of which a program contains one."""

    platform: str
    kernel: Function
    reference: Function


_choose = Primitive("choose_by_platform")
_choose.multiple_results = True


@_choose.def_impl
def _apply(*arguments: Array, choice: _Choice) -> list[Array]:
    # Only under jax.disable_jit: there is no program, and what runs is meant to be looked at.
    return choice.reference(*arguments)


@_choose.def_abstract_eval
def _types(*avals: Any, choice: _Choice) -> list[Any]:
    return list(jax.make_jaxpr(choice.reference)(*avals).out_avals)


def _lower(context: mlir.LoweringRuleContext, *arguments: Any, choice: _Choice) -> Sequence[Any]:
    is_certain = tuple(context.module_context.platforms) == (choice.platform,)
    function = choice.kernel if is_certain else choice.reference
    return mlir.lower_fun(function, multiple_results=True)(context, *arguments)


mlir.register_lowering(_choose, _lower)
