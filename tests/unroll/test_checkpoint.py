"""Recomputing instead of saving changes memory alone; truncating changes gradients alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, LSTM, RNN, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but

SHAPE = ProblemSize(time=7, batch=(2,), input=2, hidden=3)
WINDOWS = (1, 3, 7, 20)
# One case per kind of state and of parameters.
CASES = (GRU_AFTER, LSTM, RNN)


def pairs_of(*of_gru, of_others):
    """Every chunk or window for one cell; for the others, which are chunked alike, a few."""
    pairs = [(GRU_AFTER, steps) for steps in of_gru]
    return [*pairs, *((case, steps) for case in (LSTM, RNN) for steps in of_others)]


def each_direction_of(name, pairs):
    """Parametrises a case, a setting and a direction; `make test` takes the directions in turn."""
    return pytest.mark.parametrize(
        ("case", name, "reverse"),
        [
            pytest.param(
                case,
                setting,
                reverse,
                id=f"{case}-{setting}-{'reverse' if reverse else 'forward'}",
                marks=[] if reverse == index % 2 else pytest.mark.slow,
            )
            for index, (case, setting) in enumerate(pairs)
            for reverse in (False, True)
        ],
    )


each_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def sample_controls() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {
        "lengths": np.array([7, 4]),
        "mask": random.uniform(size=(7, 2)) < 0.8,
        "starts": random.uniform(size=(7, 2)) < 0.3,
    }


@pytest.fixture(scope="module")
def plain_outcomes():
    """What unroll returns when it saves everything, by case and direction."""
    with jax.enable_x64(True):
        return {
            (case, reverse): sample_problem(case).run(
                "float64", reverse=reverse, **sample_controls()
            )
            for case in CASES
            for reverse in (False, True)
        }


def sample_problem(case) -> Problem:
    return Problem.sample(case, SHAPE, learned_h0=True)


@each_direction_of("checkpoint", pairs_of("step", "chunk", *WINDOWS, of_others=(3,)))
@jax.enable_x64(True)
def test_checkpoint_changes_no_result(case, checkpoint, reverse, plain_outcomes):
    problem, controls = sample_problem(case), sample_controls()
    outcome = problem.run("float64", checkpoint=checkpoint, reverse=reverse, **controls)
    assert_close(outcome, plain_outcomes[case, reverse], "float64")


@pytest.mark.parametrize("time", slow_but([0, 2, 5], [0, 1, 2, 4, 5, 8]))
@jax.enable_x64(True)
def test_chunks_of_any_number_of_steps(time):
    problem = Problem.sample(GRU_AFTER, SHAPE._replace(time=time))
    assert_close(problem.run("float64", checkpoint="chunk"), problem.run("float64"), "float64")


@pytest.mark.parametrize("case", [GRU_AFTER, slow(LSTM)], ids=str)
def test_checkpoints_save_memory(case):
    """Over 2048 steps, a state per chunk of 45 steps is little next to every gate of every step."""
    # With fewer units the gates would not be saved in any case.
    cell, xs, _ = Problem.sample(case, ProblemSize(2048, (8,), 4, 48)).inputs("float32")

    def working_memory(checkpoint) -> int:
        @jax.jit
        @jax.grad
        def gradient(cell):
            last, _ = gru_jax.unroll(cell, xs, checkpoint=checkpoint)
            return sum(leaf.sum() for leaf in jax.tree.leaves(last))

        analysis = gradient.lower(cell).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    everything, step, chunk = (working_memory(policy) for policy in (None, "step", "chunk"))
    assert step < 0.8 * everything
    assert chunk < 0.2 * everything


BATCH, INPUT = 32, 128


def size_of_inputs(time: int) -> int:
    return 4 * time * BATCH * INPUT


def working_memory(function, time: int, *, of_inputs: bool = False, **options) -> int:
    """Bytes that a gradient allocates; inputs are arguments, and much wider than states."""
    cell = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), INPUT, 16))
    xs = jax.ShapeDtypeStruct((time, BATCH, INPUT), "float32")

    def loss(cell, xs):
        return function(cell, xs, **options)[1].sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1) if of_inputs else 0))
    return gradient.lower(cell, xs).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (gru_jax.unroll, {}),
        (gru_jax.unroll, {"of_inputs": True}),
        (gru_jax.unroll, {"checkpoint": "chunk"}),
        slow(gru_jax.unroll, {"of_inputs": True, "reverse": True}),
        slow(gru_jax.unroll, {"of_inputs": True, "checkpoint": "chunk"}),
        (gru_jax.unroll_truncated, {"window": 50}),
        slow(gru_jax.unroll, {"checkpoint": 50}),
        slow(gru_jax.unroll, {"checkpoint": "step"}),
        slow(gru_jax.unroll, {"checkpoint": "chunk", "implementation": "scan"}),
        slow(gru_jax.unroll_truncated, {"window": 50, "checkpoint": "chunk"}),
    ],
)
def test_memory_does_not_depend_on_what_divides_the_time(function, options):
    """4001 is a prime."""
    even, prime = (working_memory(function, time, **options) for time in (4000, 4001))
    assert prime < even + size_of_inputs(4001) / 8


@pytest.mark.slow
@pytest.mark.parametrize("time", [97, 1000, 4000, 4001, 10007])
def test_chunks_need_no_more_memory_than_saving_everything(time):
    everything = working_memory(gru_jax.unroll, time)
    assert working_memory(gru_jax.unroll, time, checkpoint="chunk") <= everything
    # The temporary arrays of a few chunks, and no copy of the inputs.
    assert everything < 2**24 + size_of_inputs(time) / 2


@each_direction_of("window", pairs_of(*WINDOWS, of_others=(3,)))
@jax.enable_x64(True)
def test_truncation_changes_no_value(case, window, reverse, plain_outcomes):
    problem, controls = sample_problem(case), sample_controls()
    outcome = problem.run(
        "float64", gru_jax.unroll_truncated, window=window, reverse=reverse, **controls
    )
    plain = plain_outcomes[case, reverse]
    assert_close((outcome.state, outcome.ys), (plain.state, plain.ys), "float64")
    if window >= SHAPE.time:
        assert_close(outcome.gradients, plain.gradients, "float64")
    else:
        assert np.abs(outcome.gradients["w_h"] - plain.gradients["w_h"]).max() > 1e-3


def unroll_by_hand(cell, xs, state, *, window, reverse, lengths=None, mask=None, starts=None):
    """Windows in the order of the scan, each with an initial state that is a constant to it."""
    windows = list(gru_jax.tbptt_windows(xs, window, lengths=lengths, mask=mask, starts=starts))
    outputs = []
    for index, arguments in enumerate(reversed(windows) if reverse else windows):
        if index:
            state = jax.lax.stop_gradient(state)
        state, ys = gru_jax.unroll(cell, h0=state, reverse=reverse, **arguments)
        outputs.append(ys)
    return state, jnp.concatenate(outputs[::-1] if reverse else outputs)


GRADIENT_PAIRS = [slow(GRU_AFTER, 2), (GRU_AFTER, 4), slow(LSTM, 2), slow(RNN, 2)]


@pytest.mark.parametrize(("case", "window"), GRADIENT_PAIRS, ids=str)
@jax.enable_x64(True)
def test_truncated_gradients(case, window):
    problem, controls = sample_problem(case), sample_controls()
    truncated, by_hand = (
        problem.run("float64", unroll, window=window, reverse=False, **controls)
        for unroll in (gru_jax.unroll_truncated, unroll_by_hand)
    )
    assert_close(truncated, by_hand, "float64")


@pytest.mark.parametrize(("case", "window"), GRADIENT_PAIRS, ids=str)
@jax.enable_x64(True)
def test_truncated_gradients_in_reverse(case, window):
    """Without starts, because a window cannot reset the state of the window before it."""
    problem, controls = sample_problem(case), sample_controls()
    del controls["starts"]
    truncated, by_hand = (
        problem.run("float64", unroll, window=window, reverse=True, **controls)
        for unroll in (gru_jax.unroll_truncated, unroll_by_hand)
    )
    assert_close(truncated, by_hand, "float64")


@each_direction
def test_h0_is_reached_through_the_first_window_of_the_scan(reverse):
    """With a loss over the last state alone, which is computed three windows later."""
    problem = Problem.sample(GRU_AFTER, SHAPE)
    silent = Problem(**{**vars(problem), "cotangent_ys": 0 * problem.cotangent_ys})
    outcome = silent.run("float32", gru_jax.unroll_truncated, window=3, reverse=reverse)
    assert not outcome.gradients["state.0"].any()
    assert outcome.gradients["w_h"].any()


def test_windows_hand_out_what_was_given():
    xs = np.zeros((7, 2, 3))
    windows = list(gru_jax.tbptt_windows(xs, 3, lengths=np.array([7, 4])))
    assert [set(window) for window in windows] == [{"xs", "lengths"}] * 3
    assert [window["xs"].shape[0] for window in windows] == [3, 3, 1]
    assert [window["lengths"].tolist() for window in windows] == [[3, 3], [3, 1], [1, 0]]
    assert [set(window) for window in gru_jax.tbptt_windows(xs, 9)] == [{"xs"}]


@pytest.mark.parametrize(("window", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_window_must_be_a_positive_integer(window, error):
    cell, xs, state = sample_problem(GRU_AFTER).inputs("float32")
    with pytest.raises(error, match="window"):
        gru_jax.tbptt_windows(xs, window)
    with pytest.raises(error, match="window"):
        gru_jax.unroll_truncated(cell, xs, state, window=window)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32"])
def test_windows_with_lengths_of_any_integer_dtype(dtype):
    lengths = np.array([7, 4], dtype)
    windows = list(gru_jax.tbptt_windows(np.zeros((300, 2, 3)), 3, lengths=lengths))
    expected = [[3, 3], [3, 1], [1, 0], *[[0, 0]] * 97]
    assert [window["lengths"].tolist() for window in windows] == expected


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("lengths", [8, 1], ValueError),
        ("lengths", [-1, 1], ValueError),
        ("lengths", [1, 2, 3], ValueError),
        ("lengths", [1.0, 2.0], TypeError),
        ("mask", np.ones((6, 2), bool), ValueError),
        ("mask", np.ones((7, 3), bool), ValueError),
        ("starts", np.ones((8, 2), bool), ValueError),
        ("starts", "everywhere", TypeError),
        ("xs", "sequence", TypeError),
    ],
)
def test_windows_check_as_unroll_does(name, value, error):
    arguments = {"xs": np.zeros((7, 2, 3), "float32"), "window": 3, name: value}
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.tbptt_windows(**arguments)


def test_windows_check_controls_against_one_another():
    with pytest.raises(ValueError, match="lengths"):
        gru_jax.tbptt_windows(
            np.zeros((7, 2, 3), "float32"), 3, lengths=[1, 2, 3], mask=np.ones((7, 2), bool)
        )
