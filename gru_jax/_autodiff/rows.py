"""Whether a function computes each row, a step of a sequence, by itself."""

import enum
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
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


COMPUTES_ACROSS = "computes across steps or sequences"
READS_NUMBER = "reads what differs from step to step, or sequence to sequence, but is no input"


class Origin(enum.IntEnum):
    """What an array is made of: the later kind where there are several."""

    SHARED = 0  # the same for every row
    NUMBERED = 1  # differs from row to row whatever the rows hold, as a position or noise does
    ROWS = 2


def primitive_across_rows(
    jaxpr: Any, origins: Sequence[Origin], rows: tuple[int, ...]
) -> tuple[list[Origin], tuple[str, str] | None]:
    """What outputs are made of, and the first primitive that computes across rows, if any.

    One that joins rows with what differs from row to row counts, too: of a part of the rows the
    function would compute something else. Returned with it is which of the two it does.

    Args:
        jaxpr: of the function.
        origins: of its arguments; those of rows are (*rows, ...), or made of such.
        rows: sizes of their leading axes. A size that another axis has, too, is taken for rows.
    """
    consts = jaxpr.consts if isinstance(jaxpr, ClosedJaxpr) else []
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    found_of = dict(zip(jaxpr.invars, origins, strict=True))
    sizes = {*rows, math.prod(rows)}

    def has_rows(shape: Sequence[int]) -> bool:
        return not sizes.isdisjoint(shape)

    def of(atom: Any) -> Origin:
        return Origin.SHARED if isinstance(atom, Literal) else found_of[atom]

    for var, const in zip(jaxpr.constvars, consts, strict=False):
        is_numbered = has_rows(jnp.shape(const))
        found_of[var] = Origin.NUMBERED if is_numbered else Origin.SHARED
    for equation in jaxpr.eqns:
        operands = list(map(of, equation.invars))
        params, highest = equation.params, max(operands, default=Origin.SHARED)
        results = [highest] * len(equation.outvars)
        name = equation.primitive.name
        if name in CALLS:
            called = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
            results, across = primitive_across_rows(called, operands, rows)
            if across is not None:
                return [Origin.ROWS] * len(jaxpr.outvars), across
        elif highest is Origin.ROWS:
            of_rows = [origin is Origin.ROWS for origin in operands]
            if Origin.NUMBERED in operands:
                return [Origin.ROWS] * len(jaxpr.outvars), (name, READS_NUMBER)
            if _is_across(equation, of_rows, rows):
                return [Origin.ROWS] * len(jaxpr.outvars), (name, COMPUTES_ACROSS)
        elif name not in ELEMENTWISE | ALONG_AXES:
            results = [
                Origin.NUMBERED if has_rows(var.aval.shape) else highest for var in equation.outvars
            ]
        found_of |= dict(zip(equation.outvars, results, strict=True))
    return list(map(of, jaxpr.outvars)), None


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
