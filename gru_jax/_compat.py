"""What older supported versions of JAX lack, under names that all versions share.

CONTRIBUTING.md lists the supported versions. On current ones each function is JAX's own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import Jaxpr

from gru_jax.typing import Array

# jax >= 0.10: the manual axes are one field of an array's type. Before, `vma` has the varying ones.
_HAS_MANUAL_AXIS_TYPE = hasattr(jax.ShapeDtypeStruct, "manual_axis_type")


def varying_axes(aval: Any) -> frozenset[str]:
    """The manual mesh axes over which an array of this type varies."""
    if not _HAS_MANUAL_AXIS_TYPE:
        return aval.vma or frozenset()
    return aval.manual_axis_type.varying if aval.manual_axis_type is not None else frozenset()


def varying_like(array: Array) -> dict[str, Any]:
    """Options of :class:`jax.ShapeDtypeStruct` for a type that varies over the axes of an array."""
    name = "manual_axis_type" if _HAS_MANUAL_AXIS_TYPE else "vma"
    return {name: getattr(jax.typeof(array), name)}


def pcast_to_varying(array: Array, axes: tuple[str, ...]) -> Array:
    """``lax.pcast(array, axes, to="varying")``, which jax 0.8.0 calls ``pvary``."""
    if not hasattr(lax, "pcast"):
        return lax.pvary(array, axes)  # pyright: ignore[reportAttributeAccessIssue]
    return lax.pcast(array, axes, to="varying")


def jaxprs_in_params(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of an equation, which jax >= 0.10 lists itself."""
    if hasattr(core, "jaxprs_in_params"):
        yield from core.jaxprs_in_params(params)
        return
    for value in params.values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, core.Jaxpr | core.ClosedJaxpr):
                yield each.jaxpr if isinstance(each, core.ClosedJaxpr) else each
