"""Argument checks: which types they accept, and what their errors say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax import _checks
from gru_jax.dropout import dropout

FLAGS = np.array([[False, True, True], [True, False, True]])


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int32", "float16", "bfloat16", "float32", "float8_e4m3fn"],
)
def test_flags_are_true_where_a_number_is_not_zero(dtype):
    numbers = np.array([[0, 1, -3], [2, -0.0, 0.5]])
    if dtype == "uint8":
        numbers = np.abs(numbers)
    if "int" in dtype:
        numbers[1, 2] = 7
    flags = _checks.flag_array("mask", jnp.asarray(numbers).astype(dtype))
    assert flags.dtype == np.bool_
    np.testing.assert_array_equal(flags, FLAGS)


def test_flags_are_those_of_numpy_for_nan_and_infinity():
    numbers = np.array([np.nan, np.inf, -np.inf, 2e-38, 0.0], np.float32)
    np.testing.assert_array_equal(_checks.flag_array("mask", numbers), numbers.astype(bool))


def test_flags_may_be_traced_or_lists():
    np.testing.assert_array_equal(
        jax.jit(lambda x: _checks.flag_array("mask", x))(FLAGS.astype(np.float32)), FLAGS
    )
    np.testing.assert_array_equal(_checks.flag_array("mask", FLAGS.tolist()), FLAGS)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (np.zeros(2, np.complex64), "dtype complex64"),
        (jax.random.split(jax.random.key(0)), r"dtype key<fry>"),
        (["yes", "no"], "list"),
        (None, "NoneType"),
    ],
)
def test_other_flags_are_rejected(value, got):
    message = f"^mask must be an array of booleans or real numbers, got {got}$"
    with pytest.raises(TypeError, match=message):
        _checks.flag_array("mask", value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_probabilities_may_be_numpy_numbers(dtype):
    array = np.array(0.25, jnp.dtype(dtype))
    for value in (array, array[()]):
        rate = _checks.probability("dropout", value)
        assert (type(rate), rate) == (float, 0.25)


@pytest.mark.parametrize("value", [0, np.int32(0), np.array(0)])
def test_a_probability_may_be_the_integer_zero(value):
    assert _checks.probability("dropout", value) == 0.0


@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(True), "0.5", None, np.array([0.5]), 0.5j, np.complex64(0)]
)
def test_other_types_are_no_probabilities(value):
    with pytest.raises(TypeError, match=r"^dropout must be a number in \[0, 1\), got "):
        _checks.probability("dropout", value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, np.float32(1), np.float32(np.nan), np.array(2)])
def test_numbers_out_of_range_are_no_probabilities(value):
    with pytest.raises(ValueError, match=r"^dropout must lie in \[0, 1\), got "):
        _checks.probability("dropout", value)


def test_dropout_takes_a_numpy_rate():
    key, xs = jax.random.key(0), jnp.ones((4, 5))
    np.testing.assert_array_equal(dropout(key, xs, np.float32(0.25)), dropout(key, xs, 0.25))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (0, "0"),
        (None, "None"),
        (np.uint32([0, 1]), "array.*"),
        (jnp.zeros(2), r"an array of shape \(2,\) and dtype float32"),
        (jax.random.split(jax.random.key(0)), r"an array of shape \(2,\) and dtype key<fry>"),
    ],
)
def test_other_values_are_no_keys(value, got):
    with pytest.raises(
        TypeError, match=rf"^key must be a key from jax.random.key\(seed\), got {got}"
    ):
        _checks.random_key("key", value)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_key_may_be_typed_or_raw(make):
    key = make(0)
    assert _checks.random_key("key", key) is key
