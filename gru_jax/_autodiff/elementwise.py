"""What the outputs of a jaxpr depend on, and whether they do so elementwise."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, jaxpr_as_fun

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
igamma igammac integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter
not optimization_barrier or pcast population_count pow pvary real reduce_precision
regularized_incomplete_beta rem reshard round rsqrt select_n sharding_constraint sign sin sinh sqrt
square stop_gradient sub tan tanh xor zeta
"""
ELEMENTWISE = frozenset(_NAMES.split())
"""Primitives whose outputs depend on their operands element by element."""

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2")
CALLS += ("checkpoint", "custom_vjp_call_jaxpr")
"""Primitives that run one jaxpr on their operands."""


class Source(NamedTuple):
    """An argument of a jaxpr or a preactivation in it: its kind, and its number in that kind."""

    kind: str
    position: int


class Value(NamedTuple):
    """What is known of an array in a jaxpr."""

    sources: frozenset[Source] = frozenset()  # arguments and preactivations it depends on
    across: frozenset[str] = frozenset()  # primitives on the way that are not elementwise
    constants: frozenset[str] = frozenset()  # those that make what differs along the batch


opaque_matmul = Primitive("opaque_matmul")
"""A matmul of which nothing is known but the number of its first preactivation, ``first``."""
opaque_matmul.multiple_results = True


@opaque_matmul.def_abstract_eval
def _(operand: Any, weights: Any, *, first: int, splits: int) -> list[Any]:
    del first
    width = weights.shape[-1] // max(1, splits)
    return [operand.update(shape=(*operand.shape[:-1], width))] * splits


def analyse(
    jaxpr: Any, arguments: Sequence[Value], batch: tuple[int, ...], *, with_rules: bool = True
) -> list[Value]:
    """The outputs of a jaxpr; ``batch`` are the leading axes of what differs between sequences.

    ``with_rules`` says whether the rules of :class:`jax.custom_jvp` must be elementwise, too.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    values = {var: _constant(var, "a captured array", batch) for var in jaxpr.constvars}
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def of(atom: Any) -> Value:
        return Value() if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands, params = list(map(of, equation.invars)), equation.params
        if equation.primitive is opaque_matmul:
            numbers = range(params["first"], params["first"] + params["splits"])
            results = [Value(frozenset([Source("preactivation", n)])) for n in numbers]
        elif equation.primitive.name in CALLS:
            called = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
            results = analyse(called, operands, batch, with_rules=with_rules)
            if equation.primitive.name == "custom_jvp_call" and with_rules:
                read, tangents_jaxpr = _tangents_of(jaxpr, equation)
                tangents = analyse(tangents_jaxpr, list(map(of, read)), batch, with_rules=False)
                results = [
                    value._replace(across=value.across | tangent.across)
                    for value, tangent in zip(results, tangents, strict=True)
                ]
        else:
            results = [_result(equation, operands, var, batch) for var in equation.outvars]
        values |= dict(zip(equation.outvars, results, strict=True))
    return list(map(of, jaxpr.outvars))


def _tangents_of(jaxpr: Jaxpr, equation: JaxprEqn) -> tuple[list[Any], ClosedJaxpr]:
    """A jaxpr of a call's tangents, and the variables of the enclosing one that it depends on.

    These are what the call reads, and once more those of them that have tangents.
    """
    read = dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))
    moving = [var for var in read if jnp.issubdtype(var.aval.dtype, jnp.inexact)]  # pyright: ignore
    variables, count = [*moving, *(read.keys() - moving)], len(moving)
    alone = jaxpr.replace(
        constvars=[], invars=variables, outvars=list(equation.outvars), eqns=[equation]
    )
    call = jaxpr_as_fun(ClosedJaxpr(alone, []))

    def tangents(*arguments: Any) -> Any:
        primals, fixed = arguments[:count], arguments[count : len(variables)]
        return jax.jvp(lambda *some: call(*some, *fixed), primals, arguments[len(variables) :])[1]

    depends_on = [*variables, *moving]
    avals = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in depends_on]  # pyright: ignore
    return depends_on, jax.make_jaxpr(tangents)(*avals)


def uses_custom_vjp(jaxpr: Any) -> bool:
    """Whether a function with a :class:`jax.custom_vjp` is called anywhere in a jaxpr."""
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return any(
        equation.primitive.name.startswith("custom_vjp_call")
        or any(map(uses_custom_vjp, _inner_jaxprs(equation)))
        for equation in jaxpr.eqns
    )


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Any]:
    for value in equation.params.values():
        values = value if isinstance(value, (tuple, list)) else (value,)
        yield from (each for each in values if isinstance(each, (Jaxpr, ClosedJaxpr)))


def _result(
    equation: JaxprEqn, operands: Sequence[Value], result: Any, batch: tuple[int, ...]
) -> Value:
    name = equation.primitive.name
    merged = Value(*(frozenset().union(*sets) for sets in zip(Value(), *operands, strict=True)))
    if name in ELEMENTWISE:
        # An axis of size 1 may be broadcast without an equation of its own.
        is_broadcast = any(
            atom.aval.shape != result.aval.shape and not _is_fixed(operand)  # pyright: ignore
            for atom, operand in zip(equation.invars, operands, strict=True)
        )
        return merged._replace(across=merged.across | ({"broadcast"} if is_broadcast else set()))
    # Parameters and constants may be broadcast over the batch.
    is_fixed = _is_fixed(merged)
    if name == "broadcast_in_dim":
        old, new = equation.invars[0].aval, result.aval  # pyright: ignore
        along_batch = any(
            axis < len(batch) and old.shape[position] > 1  # pyright: ignore
            for position, axis in enumerate(equation.params["broadcast_dimensions"])
        )
        if old.shape == new.shape or (is_fixed and not along_batch):  # pyright: ignore
            return merged
    if not is_fixed:
        return merged._replace(across=merged.across | {name})
    if merged.sources:
        return merged
    made = _constant(result, name, batch)
    return merged._replace(constants=merged.constants | made.constants)


def _is_fixed(value: Value) -> bool:
    """Whether a value depends on nothing but parameters."""
    return all(source.kind == "parameter" for source in value.sources)


def _constant(var: Any, name: str, batch: tuple[int, ...]) -> Value:
    differs = var.aval.shape[: len(batch)] == batch
    return Value(constants=frozenset([name] if differs else []))
