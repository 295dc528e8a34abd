"""The unit of a network's outputs: a number's deviation in the training part, or in a window."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from gru_jax.interop.onnx.writer import Writer

ROUNDING = 1e-6
"""Deviations of float32 numbers of this fraction of the mean are rounding errors."""


def window_deviation(values: Any, is_given: Any, of_constant: Any, xp: Any = jnp) -> Any:
    """Returns the deviations (batch, 1, K) of windows (batch, T, K), with NumPy or `jax.numpy`.

    Args:
        values: the windows.
        is_given: which values are not missing.
        of_constant: (..., 1, K), for windows that are constant or have no value.
        xp: the library.
    """
    count = xp.maximum(is_given.sum(axis=1, keepdims=True).astype(values.dtype), 1)
    mean = xp.where(is_given, values, 0).sum(axis=1, keepdims=True) / count
    missed = xp.where(is_given, values - mean, 0)
    deviation = xp.sqrt(xp.square(missed).sum(axis=1, keepdims=True) / count)
    return xp.where(deviation <= ROUNDING * xp.abs(mean), of_constant, deviation)


def onnx_window_deviation(
    writer: "Writer", values: str, is_given: str, of_constant: jax.typing.ArrayLike
) -> str:
    """Adds the nodes of :func:`window_deviation`."""
    time, zero = writer.integers(1), writer.constant(0)
    counts = writer.node("ReduceSum", writer.cast(is_given, writer.dtype), time)
    count = writer.node("Max", counts, writer.constant(1))
    total = writer.node("ReduceSum", writer.node("Where", is_given, values, zero), time)
    mean = writer.node("Div", total, count)
    missed = writer.node("Where", is_given, writer.node("Sub", values, mean), zero)
    squares = writer.node("ReduceSum", writer.node("Mul", missed, missed), time)
    deviation = writer.node("Sqrt", writer.node("Div", squares, count))
    least = writer.node("Mul", writer.node("Abs", mean), writer.constant(ROUNDING))
    is_constant = writer.node("LessOrEqual", deviation, least)
    return writer.node("Where", is_constant, writer.constant(of_constant), deviation)
