"""A wrong argument raises when the call is traced, with a message that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gru_jax
import gru_jax.nn
from tests.cells.cases import CASES, GRU_AFTER, LSTM, Problem
from tests.shapes import ProblemSize

SHAPE = ProblemSize(time=5, batch=(3,), input=2, hidden=4)
CELL, XS, H0 = Problem.sample(GRU_AFTER, SHAPE).inputs("float32")
CORRECT = {"params": CELL, "xs": XS, "h0": H0}

# Each line: the argument, what it should not be, and the error.
WRONG = [
    ("params", None, TypeError),
    ("params", {"w_x": CELL.w_x, "w_h": CELL.w_h}, TypeError),
    ("xs", XS[..., :-1], ValueError),
    ("xs", XS[0, 0], ValueError),
    ("xs", XS.astype(jnp.int32), TypeError),
    ("xs", "sequence", TypeError),
    ("xs", None, TypeError),
    ("h0", H0[:, :-1], ValueError),
    ("h0", H0[:-1], ValueError),
    ("h0", H0[0], ValueError),
    ("h0", H0[None], ValueError),
    ("h0", H0.astype(jnp.int32), TypeError),
    ("h0", (H0, H0), TypeError),
    ("lengths", np.array([1, 2]), ValueError),
    ("lengths", np.array([[1, 2, 3]]), ValueError),
    ("lengths", np.array(2), ValueError),
    ("lengths", np.array([1.0, 2.0, 3.0], np.float32), TypeError),
    ("lengths", np.array([True, True, False]), TypeError),
    ("mask", np.ones((3, 5), bool), ValueError),
    ("mask", np.ones((5,), bool), ValueError),
    ("mask", np.ones((5, 3, 1), bool), ValueError),
    ("mask", np.ones((5, 3), np.complex64), TypeError),
    ("mask", "everywhere", TypeError),
    ("starts", np.ones((4, 3), bool), ValueError),
    ("starts", np.ones((5, 3), np.complex64), TypeError),
]

# What only values can say, or options, which are never traced.
WRONG_WHEN_CONCRETE = [
    ("lengths", np.array([1, -1, 2]), ValueError),
    ("lengths", np.array([1, 6, 2]), ValueError),
    ("reverse", "yes", ValueError),
    ("implementation", "cuda", ValueError),
    ("checkpoint", "sometimes", ValueError),
    ("checkpoint", 0, ValueError),
    ("checkpoint", -3, ValueError),
    ("checkpoint", 2.5, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG + WRONG_WHEN_CONCRETE)
def test_unroll(name, value, error):
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.unroll(**{**CORRECT, name: value})


@pytest.mark.parametrize(
    ("name", "value", "error"), [item for item in WRONG if not isinstance(item[1], str)]
)
def test_unroll_while_tracing(name, value, error):
    with pytest.raises(error, match=rf"\b{name}\b"):
        jax.jit(gru_jax.unroll)(**{**CORRECT, name: value})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [item for item in WRONG + WRONG_WHEN_CONCRETE if item[0] != "checkpoint"],
)
def test_unroll_truncated(name, value, error):
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.unroll_truncated(window=2, **{**CORRECT, name: value})


def test_lstm_state_must_be_a_pair_of_arrays():
    cell, xs, state = Problem.sample(LSTM, SHAPE).inputs("float32")
    with pytest.raises(TypeError, match="h0"):
        gru_jax.unroll(cell, xs, state.h)
    with pytest.raises(ValueError, match="h0"):
        gru_jax.unroll(cell, xs, state._replace(c=state.c[:, :-1]))


def test_a_wrong_state_of_an_lstm_is_described_by_fields_and_shapes():
    cell, xs, state = Problem.sample(LSTM, SHAPE).inputs("float32")
    expected = r"arrays \(3, 4\) in LSTMState\(h, c\); got an array \(3, 4\)"
    with pytest.raises(TypeError, match=expected):
        gru_jax.unroll(cell, xs, state.h)
    with pytest.raises(TypeError, match=r"an array \(3, 4\); got LSTMState\(h, c\)"):
        gru_jax.unroll(CELL, XS, state)


def test_message_says_what_came_and_what_was_expected():
    with pytest.raises(ValueError, match=r"mask.*\(3, 5\).*\(5, 3\)"):
        gru_jax.unroll(CELL, XS, mask=np.ones((3, 5), bool))
    with pytest.raises(TypeError, match=r"lengths.*float32"):
        gru_jax.unroll(CELL, XS, lengths=np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"lengths.*5.*-1"):
        gru_jax.unroll(CELL, XS, lengths=np.array([1, -1, 2]))
    with pytest.raises(ValueError, match=r"implementation.*scan.*cuda"):
        gru_jax.unroll(CELL, XS, implementation="cuda")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_implementation_asked_for_by_name(case):
    inputs = Problem.sample(case, SHAPE).inputs("float32")
    named, default = (
        gru_jax.unroll(*inputs, implementation=implementation) for implementation in ("scan", None)
    )
    np.testing.assert_array_equal(named[1], default[1])


@pytest.mark.parametrize("name", ["mask", "starts"])
def test_a_trailing_axis_of_a_mask_is_named(name):
    """As Brax's and Gymnax's wrappers hand over flags."""
    with pytest.raises(ValueError, match=rf"drop the last axis: {name}\[\.\.\., 0\]"):
        gru_jax.unroll(CELL, XS, **{name: np.ones((5, 3, 1))})


def test_a_misspelt_option_is_no_option():
    with pytest.raises(TypeError, match="lenghts"):
        gru_jax.unroll_truncated(CELL, XS, window=2, lenghts=np.array([1, 2, 3]))


def test_what_runs_otherwise_says_how():
    stack = gru_jax.init_stack(jax.random.key(0), 2, 4)
    with pytest.raises(TypeError, match="unroll_stack"):
        gru_jax.unroll(stack, XS)
    with pytest.raises(TypeError, match=r"gru_jax\.unroll"):
        gru_jax.unroll_stack(CELL, XS)
    module = gru_jax.nn.GRU(2, 4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"got GRU; .*module\(inputs\)"):
        gru_jax.unroll(module, XS)
    with pytest.raises(TypeError, match=r"nnx\.RNN"):
        gru_jax.unroll(module.layers[0][0], XS)


def test_integers_and_lists_are_rejected_with_a_hint():
    with pytest.raises(TypeError, match=r"xs .* int32; embed or cast integers"):
        gru_jax.unroll(CELL, XS.astype("int32"))
    with pytest.raises(TypeError, match="w_h must be an array, got list"):
        gru_jax.unroll(gru_jax.GRUParams(CELL.w_x, CELL.w_h.tolist()), XS)


@pytest.mark.parametrize(
    ("state", "got"),
    [
        ((H0, H0), "a tuple of 2 arrays"),
        ([H0, None], "a list of 2 entries"),
        ({"h": H0}, "dict"),
        (gru_jax.LSTMState(H0, None), r"LSTMState\(h, c=None\)"),
    ],
)
def test_a_wrong_state_is_described_in_words(state, got):
    with pytest.raises(TypeError, match=rf"h0 must .* an array \(3, 4\); got {got}"):
        gru_jax.unroll(CELL, XS, state)


@pytest.mark.parametrize("options", [{"checkpoint": "chunk"}, {"checkpoint": 2}, {"window": 2}])
def test_symbolic_time_cannot_be_divided(options):
    unroll = gru_jax.unroll_truncated if "window" in options else gru_jax.unroll
    (time,) = jax.export.symbolic_shape("time")
    xs = jax.ShapeDtypeStruct((time, 3, 2), XS.dtype)
    with pytest.raises(ValueError, match=r"(checkpoint|window)=.* must be a number .* got time"):
        jax.eval_shape(lambda xs: unroll(CELL, xs, **options), xs)


def test_an_lstm_state_may_be_a_plain_tuple():
    """Its shapes are checked as those of an LSTMState."""
    cell, xs, state = Problem.sample(LSTM, SHAPE).inputs("float32")
    expected = gru_jax.unroll(cell, xs, state)
    for plain in (tuple(state), list(state)):
        got = gru_jax.unroll(cell, xs, plain)
        assert isinstance(got[0], gru_jax.LSTMState)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, got, expected))
    with pytest.raises(TypeError, match=r"h0.*LSTMState\(h, c\); got a tuple of 3"):
        gru_jax.unroll(cell, xs, (state.h, state.c, state.c))
    with pytest.raises(ValueError, match="h0"):
        gru_jax.unroll(cell, xs, (state.h[:1], state.c))
