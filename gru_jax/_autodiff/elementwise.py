"""What the outputs of a jaxpr depend on, and whether they do so elementwise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

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
    """An argument of a jaxpr: of which kind, and the how-manieth of that kind."""

    kind: str
    position: int


class Value(NamedTuple):
    """What is known of an array in a jaxpr.

    Attributes:
        sources: the arguments that it depends on.
        across: primitives on the way from them that are not elementwise.
        constants: primitives on the way that make constants which differ along the batch.
    """

    sources: frozenset[Source] = frozenset()
    across: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()


def analyse(closed: ClosedJaxpr, sources: Sequence[Source], batch: tuple[int, ...]) -> list[Value]:
    """The outputs of a jaxpr.

    Args:
        closed: the jaxpr.
        sources: its arguments.
        batch: leading axes of an array that differs from sequence to sequence.
    """
    return _outputs(closed, [Value(frozenset([source])) for source in sources], batch)


def _outputs(
    inner: ClosedJaxpr | Jaxpr, arguments: Sequence[Value], batch: tuple[int, ...]
) -> list[Value]:
    jaxpr = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
    values = {var: _constant(var, "a captured array", batch) for var in jaxpr.constvars}
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def of(atom: Any) -> Value:
        return Value() if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = list(map(of, equation.invars))
        called = _called(equation)
        if called is None:
            results = [_result(equation, operands, var, batch) for var in equation.outvars]
        else:
            results = _outputs(called, operands, batch)
        values |= dict(zip(equation.outvars, results, strict=True))
    return list(map(of, jaxpr.outvars))


def _called(equation: JaxprEqn) -> ClosedJaxpr | Jaxpr | None:
    """The jaxpr that an equation runs on its operands; None for any other primitive."""
    if equation.primitive.name not in CALLS:
        return None
    params = equation.params
    return params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")


def _result(
    equation: JaxprEqn, operands: Sequence[Value], result: Any, batch: tuple[int, ...]
) -> Value:
    name = equation.primitive.name
    merged = Value(*(frozenset().union(*sets) for sets in zip(Value(), *operands, strict=True)))
    if name in ELEMENTWISE:
        return merged
    # Parameters and constants may be broadcast over the batch.
    is_fixed = all(source.kind == "parameter" for source in merged.sources)
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


def _constant(var: Any, name: str, batch: tuple[int, ...]) -> Value:
    differs = var.aval.shape[: len(batch)] == batch
    return Value(constants=frozenset([name] if differs else []))
