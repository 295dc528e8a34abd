"""Argument checks, whose errors name the argument, what was passed and what is expected."""

import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.typing import Array, DType, Shape


def floating_array(name: str, value: object) -> Array:
    """Returns ``value`` as an array; TypeError unless its dtype is a floating point one."""
    return _array(name, value, (jnp.floating,), "floating point numbers")


def integer_array(name: str, value: object) -> Array:
    """Returns ``value`` as an array; TypeError unless its dtype is an integer one."""
    return _array(name, value, (jnp.integer,), "integers")


def flag_array(name: str, value: object) -> Array:
    """Returns ``value`` as a boolean array; TypeError unless it holds booleans or real numbers.

    As in NumPy, a number is true unless it is zero; NaN is true.
    """
    kinds = (np.bool_, jnp.integer, jnp.floating)
    array = _array(name, value, kinds, "booleans or real numbers")
    return array if array.dtype == np.bool_ else array != 0


def array_of_kind(name: str, value: object, like: DType) -> Array:
    """Returns ``value`` as an array; TypeError unless its dtype is of the kind of ``like``."""
    if jnp.issubdtype(like, jnp.floating):
        return floating_array(name, value)
    if jnp.issubdtype(like, jnp.integer):
        return integer_array(name, value)
    is_complex = jnp.issubdtype(like, jnp.complexfloating)
    return _array(name, value, (jnp.complexfloating if is_complex else like.type,), str(like))


def _array(name: str, value: object, kinds: tuple[type, ...], description: str) -> Array:
    try:
        # An array as it is: under jax_debug_nans a conversion of a traced one looks at its values.
        array = value if isinstance(value, jax.Array) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of {description}, got {type(value).__name__}"
        ) from error
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        hint = "; embed or cast integers" if kinds == (jnp.floating,) else ""
        raise TypeError(f"{name} must be an array of {description}, got dtype {array.dtype}{hint}")
    return array


def shape(name: str, array: Array, expected: Shape, meaning: str) -> None:
    """ValueError unless ``array`` has the expected shape; ``meaning`` names its axes."""
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}: {meaning}")


def parameter(name: str, value: object, expected: tuple[int | None, ...], meaning: str) -> Array:
    """Returns a parameter's array; None in ``expected`` permits any size of that axis."""
    if not hasattr(value, "shape"):
        # A list of numbers would be a tree of many parameters.
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    array = floating_array(name, value)
    matches = array.ndim == len(expected) and all(
        size in (None, got) for got, size in zip(array.shape, expected, strict=True)
    )
    if not matches:
        sizes = tuple("any" if size is None else size for size in expected)
        raise ValueError(f"{name} has shape {array.shape}, expected {sizes}: {meaning}")
    return array


def positive_int(name: str, value: object) -> int:
    """Returns ``value`` as an int; TypeError or ValueError unless it is a positive integer."""
    return _integer(name, value, 1, None, "a positive integer")


def non_negative_int(name: str, value: object) -> int:
    """Returns ``value`` as an int; TypeError or ValueError unless it is an integer from 0 on."""
    return _integer(name, value, 0, None, "an integer, 0 or above")


def seed(name: str, value: object) -> int:
    """Returns ``value`` as an int; TypeError or ValueError unless it is an integer of 32 bits.

    Without 64 bits JAX drops the upper ones: the key of 2**32 is that of 0.
    """
    return _integer(name, value, 0, 2**32, "an integer from 0 to 2**32 - 1")


def _integer(name: str, value: object, first: int, end: int | None, description: str) -> int:
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise TypeError(f"{name} must be {description}, got {value!r}") from error
    if number < first or (end is not None and number >= end) or isinstance(value, bool):
        raise ValueError(f"{name} must be {description}, got {value!r}")
    return number


def function(name: str, value: object) -> None:
    """TypeError unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def instance(name: str, value: object, expected: type, description: str) -> None:
    """TypeError unless ``value`` is an instance of ``expected``."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be {description}, got {type(value).__name__}")


def scalar_or_per_unit(name: str, value: object, hidden_size: object) -> Array:
    """Returns ``value`` as an array; ValueError unless its shape is () or (H,)."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    array = floating_array(name, jnp.asarray(value, float) if is_number else value)
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
    """Returns ``value`` as a float; TypeError or ValueError unless it is a number in [0, 1)."""
    number = _number(name, value, "a number in [0, 1)")
    if not 0 <= number < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {number!r}")
    return float(number)


def time_scale(name: str, value: object) -> float:
    """Returns ``value`` as a float; TypeError or ValueError unless it is finite and 2 or more."""
    number = _number(name, value, "a number of steps")
    if not 2 <= number < float("inf"):
        raise ValueError(f"{name} must be 2 steps or more, and finite, got {number!r}")
    return float(number)


def _number(name: str, value: object, description: str) -> int | float:
    """NumPy scalars and arrays without axes are numbers, too."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {description}, got {value!r}")
    return value


def not_both(name: str, other: str, value: object, default: float) -> None:
    """ValueError unless ``value`` of the argument ``other`` is its default; ``name`` is given."""
    if not np.isscalar(value) or value != default:
        raise ValueError(f"{name} sets {other}; pass only one of the two, got {other}={value!r}")


def adds_to_bias(name: str, bias: bool, bias_init: object) -> None:
    """ValueError unless there are biases to which the argument ``name`` is added."""
    if not bias or callable(bias_init):
        found = "a callable bias_init" if bias else "bias=False"
        raise ValueError(f"{name} is added to the biases, and has no effect with {found}")


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
    """Returns ``value``; TypeError unless it is one key, typed or a raw uint32 array."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return value
        elif value.dtype == jnp.uint32 and value.ndim == 1:
            return value
        got = f"an array of shape {value.shape} and dtype {value.dtype}"
    else:
        got = repr(value)
    raise TypeError(f"{name} must be a key from jax.random.key(seed), got {got}")
