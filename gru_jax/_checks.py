"""Argument checks that say what is wrong: the argument's name, what came, what was expected."""

import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.typing import Array, DType, Shape


def floating_array(name: str, value: object) -> Array:
    """Returns ``value`` as an array; TypeError unless it is one of floating point numbers."""
    return _array(name, value, jnp.floating, "floating point numbers")


def integer_array(name: str, value: object) -> Array:
    """Returns ``value`` as an array; TypeError unless it is one of integers."""
    return _array(name, value, jnp.integer, "integers")


def boolean_array(name: str, value: object) -> Array:
    """Returns ``value`` as an array; TypeError unless it is one of booleans."""
    return _array(name, value, np.bool_, "booleans")


def _array(name: str, value: object, kind: type, description: str) -> Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of {description}, got {type(value).__name__}"
        ) from error
    if not jnp.issubdtype(array.dtype, kind):
        raise TypeError(f"{name} must be an array of {description}, got dtype {array.dtype}")
    return array


def shape(name: str, array: Array, expected: Shape, meaning: str) -> None:
    """ValueError unless ``array`` has the expected shape; ``meaning`` names its axes."""
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}: {meaning}")


def parameter(name: str, value: object, expected: tuple[int | None, ...], meaning: str) -> Array:
    """Returns a parameter's array; None in ``expected`` leaves that axis free."""
    array = floating_array(name, value)
    fits = array.ndim == len(expected) and all(
        want in (None, got) for got, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        wanted = tuple("any" if size is None else size for size in expected)
        raise ValueError(f"{name} has shape {array.shape}, expected {wanted}: {meaning}")
    return array


def positive_int(name: str, value: object) -> int:
    """Returns ``value`` as an int; TypeError or ValueError unless it is a positive integer."""
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from error
    if number <= 0 or isinstance(value, bool):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def scalar_or_per_unit(name: str, value: object, hidden_size: object) -> Array:
    """Returns a number, or one for each unit; ValueError unless it is () or (H,)."""
    array = floating_array(name, jnp.asarray(value, float) if np.isscalar(value) else value)
    hidden = positive_int("hidden_size", hidden_size)
    if array.shape not in ((), (hidden,)):
        raise ValueError(
            f"{name} has shape {array.shape}, expected () or {(hidden,)}: one number, or (hidden,)"
        )
    return array


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def probability(name: str, value: object) -> float:
    """Returns ``value`` as a float; ValueError unless it is a probability below one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return float(value)


def floating_dtype(name: str, value: DType) -> np.dtype:
    """Returns ``value`` as a dtype; TypeError unless it is a floating point one."""
    try:
        dtype = jnp.dtype(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a floating point dtype, got {value!r}") from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating point dtype, got {dtype}")
    return dtype


def random_key(name: str, value: object) -> Array:
    """Returns ``value``; TypeError unless it is one key, new-style or a raw uint32 pair."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return value
        elif value.dtype == jnp.uint32 and value.ndim == 1:
            return value
        came = f"an array of shape {value.shape} and dtype {value.dtype}"
    else:
        came = repr(value)
    raise TypeError(f"{name} must be one random key, as jax.random.key(seed) makes; got {came}")
