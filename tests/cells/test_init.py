"""Initialisation: gate by gate, a function of the key alone, in any dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.assert_trees import ROUNDINGS, assert_equal
from tests.cells.cases import CASES, GRU_AFTER, LSTM
from tests.slow import slow_but

KEY = jax.random.key(0)
# Without the orthogonal kernel, whose decomposition takes its time.
WIDE = {"input_size": 192, "hidden_size": 128, "recurrent_kernel_init": "zeros"}


def gates_of(case, packed: jax.Array) -> np.ndarray:
    return np.asarray(packed, np.float64).reshape(*packed.shape[:-1], case.gates, -1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtype_of_every_leaf(case, dtype):
    cell = case.init(KEY, 3, 4, dtype=dtype, learned_h0=True, **case.static)
    assert {leaf.dtype for leaf in jax.tree.leaves(cell)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("case", CASES, ids=str)
@jax.enable_x64(True)
def test_float64(case):
    cell = case.init(KEY, 3, 4, dtype=jnp.float64, **case.static)
    assert {leaf.dtype for leaf in jax.tree.leaves(cell)} == {jnp.dtype("float64")}
    assert not np.array_equal(cell.w_x, cell.w_x.astype(jnp.float32).astype(jnp.float64))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_key_decides(case):
    options = {"bias_init": "torch", **case.static}
    cell, again = (case.init(KEY, 3, 4, **options) for _ in range(2))
    other = case.init(jax.random.key(1), 3, 4, **options)
    assert_equal(cell, again)
    for leaf, different in zip(jax.tree.leaves(cell), jax.tree.leaves(other), strict=True):
        assert not (leaf == different).any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_legacy_key(case):
    assert_equal(
        case.init(jax.random.PRNGKey(0), 3, 4, **case.static), case.init(KEY, 3, 4, **case.static)
    )


@pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], CASES), ids=str)
def test_jit_makes_the_same_structure(case):
    def init_params(key):
        return case.init(key, 3, 4, **case.static)

    assert jax.tree.structure(jax.jit(init_params)(KEY)) == jax.tree.structure(init_params(KEY))
    many = jax.vmap(init_params)(jax.random.split(KEY, 5))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(many)} == {5}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_two_parameters_or_gates_share_samples(case):
    cell = case.init(KEY, 4, 4, kernel_init="torch", recurrent_kernel_init="torch", **case.static)
    gates = np.concatenate([gates_of(case, cell.w_x), gates_of(case, cell.w_h)], axis=1)
    for i in range(gates.shape[1]):
        for j in range(i):
            assert not np.isin(gates[:, i], gates[:, j]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_recurrent_kernel_is_orthogonal_gate_by_gate(case, dtype):
    hidden = 16
    cell = case.init(KEY, 3, hidden, dtype=dtype, **case.static)
    tolerance = ROUNDINGS[dtype] * float(jnp.finfo(dtype).eps)
    for gate in np.moveaxis(gates_of(case, cell.w_h), 1, 0):
        np.testing.assert_allclose(gate.T @ gate, np.eye(hidden), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        ("glorot", 2 / (192 + 128)),
        ("lecun", 1 / 192),
        ("torch", 1 / 128 / 3),
    ],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_variance_is_that_of_one_gate(case, scheme, variance):
    """Of 24576 elements the sample variance is within 3 %, except in one sample in a thousand."""
    cell = case.init(KEY, **WIDE, kernel_init=scheme, **case.static)
    for gate in np.moveaxis(gates_of(case, cell.w_x), 1, 0):
        assert gate.var() == pytest.approx(variance, rel=0.05)
        assert gate.mean() == pytest.approx(0, abs=5 * np.sqrt(variance / gate.size))


@pytest.mark.parametrize(
    ("scheme", "bound"), [("glorot", np.sqrt(6 / (192 + 128))), ("torch", 1 / np.sqrt(128))]
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounds_of_uniform_schemes(case, scheme, bound):
    cell = case.init(KEY, **WIDE, kernel_init=scheme, **case.static)
    largest = np.abs(np.asarray(cell.w_x)).max()
    assert 0.99 * bound < largest <= bound * (1 + jnp.finfo(jnp.float32).eps)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_biases_are_bounded_by_the_hidden_size(case):
    cell = case.init(KEY, **WIDE, bias_init="torch", **case.static)
    offset = np.zeros((case.gates, 1))
    if case is LSTM:
        offset[1] = 1
    largest = np.abs(gates_of(case, cell.b) - offset).max()
    assert 0.9 / np.sqrt(128) < largest <= 1 / np.sqrt(128) + 1e-7


def test_update_bias_changes_the_update_gate_alone():
    plain = gru_jax.init(KEY, 3, 4, bias_init="torch")
    shifted = gru_jax.init(KEY, 3, 4, bias_init="torch", update_bias=2.5)
    difference = gates_of(GRU_AFTER, shifted.b - plain.b)
    np.testing.assert_allclose(difference, [[0] * 4, [2.5] * 4, [0] * 4], atol=1e-6)
    assert_equal(shifted.b_hn, plain.b_hn)


def test_forget_bias_changes_the_forget_gate_alone():
    default = gru_jax.init_lstm(KEY, 3, 4)
    np.testing.assert_array_equal(gates_of(LSTM, default.b), [[0] * 4, [1] * 4, [0] * 4, [0] * 4])
    assert not gru_jax.init_lstm(KEY, 3, 4, forget_bias=0.0).b.any()


@pytest.mark.parametrize(
    ("init", "name", "gates"),
    [
        (gru_jax.init, "update_bias", ("zero", "given", "zero")),
        (gru_jax.init_lstm, "forget_bias", ("zero", "given", "zero", "zero")),
        (gru_jax.init_lstm, "input_bias", ("given", "one", "zero", "zero")),
    ],
)
def test_each_unit_may_have_its_own_bias(init, name, gates):
    cell = init(KEY, 3, 4, **{name: jnp.arange(4.0)})
    biases = {"zero": [0] * 4, "one": [1] * 4, "given": np.arange(4)}
    expected = [biases[gate] for gate in gates]
    np.testing.assert_array_equal(np.asarray(cell.b).reshape(len(gates), 4), expected)
    with pytest.raises(ValueError, match=rf"{name} has shape \(3,\), expected \(\) or \(4,\)"):
        init(KEY, 3, 4, **{name: jnp.arange(3.0)})


TIMES = np.geomspace(2, 100, 5)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gru_without_inputs_forgets_over_its_time_scales(reset):
    """Tallec & Ollivier 2018: a unit of time scale T keeps 1 - 1/T of its state in a step."""
    cell = gru_jax.init(KEY, 3, 5, reset=reset, recurrent_kernel_init="zeros", chrono_bias=100.0)
    h, _ = gru_jax.unroll(cell, jnp.zeros((4, 3)), jnp.ones(5))
    np.testing.assert_allclose(h, (1 - 1 / TIMES) ** 4, rtol=1e-5)


def test_an_lstm_without_inputs_forgets_over_its_time_scales():
    cell = gru_jax.init_lstm(KEY, 3, 5, recurrent_kernel_init="zeros", chrono_bias=100.0)
    state = gru_jax.LSTMState(h=jnp.zeros(5), c=jnp.ones(5))
    state, _ = gru_jax.unroll(cell, jnp.zeros((4, 3)), state)
    np.testing.assert_allclose(state.c, (1 - 1 / TIMES) ** 4, rtol=1e-5)


def test_chrono_bias_of_an_lstm_is_that_of_the_paper():
    """Section 2: b_f = log(T - 1) for T - 1 from 1 to T_max - 1, b_i = -b_f, the others zero."""
    cell = gru_jax.init_lstm(KEY, 3, 5, chrono_bias=100.0)
    b_i, b_f, b_g, b_o = gates_of(LSTM, cell.b)
    np.testing.assert_allclose(b_f, np.log(TIMES - 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(b_i, -b_f)
    assert not b_g.any()
    assert not b_o.any()
    # So a leaky unit without inputs is an average over time: i + f = 1.
    np.testing.assert_allclose(jax.nn.sigmoid(b_i) + jax.nn.sigmoid(b_f), 1, rtol=1e-6)


@pytest.mark.parametrize("longest", [2, 3.5, 1000, np.float32(1e6)])
@pytest.mark.parametrize("hidden", [1, 2, 64])
def test_chrono_biases_lie_in_the_range_of_the_paper(longest, hidden):
    biases = np.asarray(gru_jax.initializers.chrono_bias(longest, hidden), np.float64)
    assert biases.shape == (hidden,)
    rounding = 1e-6 * (1 + float(np.log(longest)))
    assert biases[0] == pytest.approx(np.log(1), abs=rounding)
    assert np.diff(biases).min(initial=0) >= -rounding
    assert biases.max() <= np.log(longest - 1) + rounding


def test_chrono_bias_of_a_gru_changes_the_update_gate_alone():
    plain = gru_jax.init(KEY, 3, 5, bias_init="torch")
    biases = gru_jax.initializers.chrono_bias(100.0, 5)
    expected = gru_jax.init(KEY, 3, 5, bias_init="torch", update_bias=biases)
    found = gru_jax.init(KEY, 3, 5, bias_init="torch", chrono_bias=100.0)
    assert_equal(found, expected)
    assert (gates_of(GRU_AFTER, found.b - plain.b)[[0, 2]] == 0).all()


@pytest.mark.parametrize("init", [gru_jax.init, gru_jax.init_lstm])
def test_chrono_bias_needs_a_bias_that_it_is_added_to(init):
    for options in ({"bias": False}, {"bias_init": jax.nn.initializers.ones}):
        with pytest.raises(ValueError, match=r"chrono_bias is added to the biases.* no effect"):
            init(KEY, 3, 4, chrono_bias=100.0, **options)


@pytest.mark.parametrize("value", ["1", True, None])
def test_an_update_bias_is_a_number(value):
    with pytest.raises(TypeError, match="update_bias"):
        gru_jax.init(KEY, 3, 4, update_bias=value)


@pytest.mark.parametrize(
    ("init", "name", "value"),
    [
        (gru_jax.init, "update_bias", 1.0),
        (gru_jax.init, "update_bias", jnp.zeros(4)),
        (gru_jax.init_lstm, "forget_bias", 0.0),
        (gru_jax.init_lstm, "forget_bias", jnp.ones(4)),
        (gru_jax.init_lstm, "input_bias", -1.0),
    ],
)
def test_chrono_bias_excludes_other_biases(init, name, value):
    with pytest.raises(ValueError, match=f"^chrono_bias sets {name}; pass only one of the two"):
        init(KEY, 3, 4, chrono_bias=100.0, **{name: value})


@pytest.mark.parametrize("value", [1, 1.5, np.nan, np.inf])
def test_chrono_bias_rejects_a_time_that_is_too_short(value):
    with pytest.raises(ValueError, match=f"longest must be 2 steps or more, .*got {value}"):
        gru_jax.initializers.chrono_bias(value, 5)
    for init in (gru_jax.init, gru_jax.init_lstm):
        with pytest.raises(ValueError, match="chrono_bias must be 2 steps or more"):
            init(KEY, 3, 4, chrono_bias=value)


def test_chrono_bias_rejects_arguments_of_the_wrong_type():
    with pytest.raises(ValueError, match="hidden_size must be a positive integer, got 0"):
        gru_jax.initializers.chrono_bias(10, 0)
    with pytest.raises(TypeError, match="chrono_bias must be a number of steps, got Array"):
        gru_jax.init(KEY, 3, 4, chrono_bias=jnp.ones(4))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_zeros(case):
    cell = case.init(KEY, 3, 4, kernel_init="zeros", recurrent_kernel_init="zeros", **case.static)
    assert not cell.w_x.any()
    assert not cell.w_h.any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_callable_is_called_for_each_gate(case):
    calls = []

    def count(key, shape, dtype):
        calls.append((shape, jnp.dtype(dtype)))
        return jnp.full(shape, len(calls), dtype)

    cell = case.init(KEY, 3, 4, kernel_init=count, recurrent_kernel_init=count, **case.static)
    float32 = jnp.dtype("float32")
    assert calls == [((3, 4), float32)] * case.gates + [((4, 4), float32)] * case.gates
    numbers = np.arange(1, 2 * case.gates + 1)
    w_x, w_h = np.repeat(numbers, 4).reshape(2, -1)
    np.testing.assert_array_equal(cell.w_x, np.tile(w_x, (3, 1)))
    np.testing.assert_array_equal(cell.w_h, np.tile(w_h, (4, 1)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_orthogonal_callable_gives_different_orthogonal_gates(case, dtype):
    scheme = jax.nn.initializers.orthogonal()
    cell = case.init(KEY, 3, 16, dtype=dtype, recurrent_kernel_init=scheme, **case.static)
    named = case.init(KEY, 3, 16, dtype=dtype, recurrent_kernel_init="orthogonal", **case.static)
    assert_equal(cell, named)
    gates = np.moveaxis(gates_of(case, cell.w_h), 1, 0)
    tolerance = ROUNDINGS[dtype] * float(jnp.finfo(dtype).eps)
    for index, gate in enumerate(gates):
        np.testing.assert_allclose(gate.T @ gate, np.eye(16), rtol=0, atol=tolerance)
        assert not any((gate == other).any() for other in gates[:index])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_callable_for_biases_is_called_with_the_packed_shape(case):
    def ramp(key, shape, dtype):
        return jnp.arange(shape[0], dtype=dtype)

    cell = case.init(KEY, 3, 4, bias_init=ramp, **case.static)
    np.testing.assert_array_equal(cell.b, np.arange(4 * case.gates))
    if case.has_b_hn:
        np.testing.assert_array_equal(cell.b_hn, np.arange(4))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kernel_init", r"\(3, 4\)"),
        ("recurrent_kernel_init", r"\(4, 4\)"),
        ("bias_init", r"\((4|12|16),\)"),
    ],
)
@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (jnp.zeros((4, 5)), r"\(4, 5\)"),
        (jnp.zeros(()), r"\(\)"),
        (None, "NoneType"),
        (1.5, "float"),
        ((jnp.zeros((3, 4)), jnp.zeros((3, 4))), "tuple"),
    ],
    ids=["shape", "scalar", "None", "float", "tuple"],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_result_of_a_callable_is_named(case, name, expected, returned, got):
    options = {name: lambda key, shape, dtype: returned}
    message = f"^{name} must return an array of shape {expected}, got {got}$"
    with pytest.raises(ValueError, match=message):
        case.init(KEY, 3, 4, **options, **case.static)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("input_size", 0, ValueError),
        ("input_size", 2.5, TypeError),
        ("hidden_size", -1, ValueError),
        ("hidden_size", None, TypeError),
        ("dtype", "int32", TypeError),
        ("dtype", "float31", TypeError),
        ("key", 0, TypeError),
        ("kernel_init", "glorott", ValueError),
        ("kernel_init", 1.0, TypeError),
        ("recurrent_kernel_init", "identity", ValueError),
        ("bias_init", "ones", ValueError),
    ],
)
def test_wrong_argument_is_named(case, name, value, error):
    arguments = {"key": KEY, "input_size": 3, "hidden_size": 4, **case.static, name: value}
    with pytest.raises(error, match=rf"\b{name}\b"):
        case.init(**arguments)


@pytest.mark.parametrize("value", ["both", True, None])
def test_unknown_equation(value):
    with pytest.raises(ValueError, match="reset"):
        gru_jax.init(KEY, 3, 4, reset=value)
