"""Whether a function computes each row, a step of a sequence, by itself."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from gru_jax._autodiff.elementwise import CALLS, ELEMENTWISE

_NAMES = """
argmax argmin broadcast_in_dim concatenate cumlogsumexp cummax cummin cumprod cumsum dot_general
expand_dims pad reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reshape rev slice
sort split squeeze top_k transpose
"""
ALONG_AXES = frozenset(_NAMES.split())
"""Primitives that compute along axes which their parameters or shapes tell."""

AXES = ("axes", "axis", "dimension", "dimensions")
"""Parameters that name such axes."""


def primitive_across_rows(
    jaxpr: Any, depends: Sequence[bool], rows: tuple[int, ...]
) -> tuple[list[bool], str | None]:
    """Which outputs depend on rows, and the first primitive that computes across them, if any.

    Args:
        jaxpr: of the function.
        depends: which of its arguments are rows, (*rows, ...), or made of them.
        rows: sizes of their leading axes. A size that another axis has, too, is taken for rows.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    dependent = {var for var, of_rows in zip(jaxpr.invars, depends, strict=True) if of_rows}

    def is_dependent(atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in dependent

    for equation in jaxpr.eqns:
        of_rows = list(map(is_dependent, equation.invars))
        if not any(of_rows):
            continue
        params, results = equation.params, [True] * len(equation.outvars)
        if equation.primitive.name in CALLS:
            called = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
            results, found = primitive_across_rows(called, of_rows, rows)
        else:
            found = equation.primitive.name if _is_across(equation, of_rows, rows) else None
        if found is not None:
            return [True] * len(jaxpr.outvars), found
        dependent |= {var for var, each in zip(equation.outvars, results, strict=True) if each}
    return list(map(is_dependent, jaxpr.outvars)), None


def _is_across(equation: JaxprEqn, of_rows: Sequence[bool], rows: tuple[int, ...]) -> bool:
    name = equation.primitive.name
    # A lookup by row in a table, which no row is part of.
    is_lookup = name == "gather" and not of_rows[0]
    if name not in ELEMENTWISE | ALONG_AXES and not is_lookup:
        return True
    count, sizes = math.prod(rows), {*rows, math.prod(rows)}
    shapes = [atom.aval.shape for atom in equation.invars]  # pyright: ignore
    operands = zip(shapes, of_rows, _axes(equation, len(shapes)), strict=True)
    if any(each and any(shape[axis] in sizes for axis in axes) for shape, each, axes in operands):
        return True
    results = [var.aval.shape for var in equation.outvars]  # pyright: ignore
    return any(math.prod(size for size in shape if size in sizes) != count for shape in results)


def _axes(equation: JaxprEqn, operands: int) -> Iterator[tuple[int, ...]]:
    """The axes of each operand along which a primitive computes."""
    if equation.primitive.name == "dot_general":
        yield from equation.params["dimension_numbers"][0]
        return
    named = [equation.params.get(name) for name in AXES]
    axes = tuple(axis for each in named if each is not None for axis in np.ravel(each))
    for _ in range(operands):
        yield axes
