"""JVP and vmap rules for functions that JAX cannot transform well by itself.

Each rule replaces the function by a reference that computes the same values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

Function = Callable[..., Any]


def with_reference_fallback(function: Function, reference: Function) -> Function:
    """``function``; under differentiation and :func:`jax.vmap`, ``reference``."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(size: int, is_mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        return vmap_reference(reference, size, is_mapped, arguments)

    return with_reference_jvp(mapped, reference)


def with_reference_jvp(function: Function, reference: Function) -> Function:
    """``function`` with the derivative of ``reference``."""
    differentiable = jax.custom_jvp(function)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        return differentiable(*primals), jax.jvp(reference, primals, tangents)[1]

    differentiable.defjvp(rule)
    return differentiable


def vmap_reference(
    reference: Function, size: int, is_mapped: Any, arguments: Sequence[Any]
) -> tuple[Any, Any]:
    """The result of a rule of :func:`jax.custom_batching.custom_vmap` that maps ``reference``."""
    axes = jax.tree.map(lambda mapped: 0 if mapped else None, tuple(is_mapped))
    values = jax.vmap(reference, axes, axis_size=size)(*arguments)
    return values, jax.tree.map(lambda _: True, values)
