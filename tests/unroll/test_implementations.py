"""Every way to run a cell over time is one function, to every transformation and every dtype."""

import contextlib
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax.unroll import xla
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, RNN, Problem, assert_close
from tests.shapes import Shape

# Seven steps, which blocks of three do not divide.
SHAPE = Shape(time=7, batch=(2,), input=2, hidden=3)
NEVER = 2**40


def in_blocks_of(steps: int, *, inside: bool = False, sequences: int = 2) -> xla.Tuning:
    """Blocks of ``steps`` steps, inputs projected in the loop or ahead of it, whatever the size."""
    from_size = {"inside_elements": 0, "inside_batch": 1} if inside else {"inside_elements": NEVER}
    return xla.Tuning(block_elements=1, block_rows=steps * sequences, **from_size)


WAYS = {
    "scan": ("scan", xla.TUNING),
    "xla": ("xla", xla.TUNING),
    "xla in blocks": ("xla", in_blocks_of(3)),
    "xla in blocks, projecting inside": ("xla", in_blocks_of(3, inside=True)),
}
IN_BLOCKS = tuple(WAYS)[2:]
OF_XLA = tuple(WAYS)[1:]


@contextlib.contextmanager
def run_by(implementation, tuning):
    """Unroll by one implementation; compiled anew, for the tuning is read when it is traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla, "TUNING", tuning)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation=implementation)
    jax.clear_caches()


@pytest.fixture(scope="module", params=WAYS)
def unroll(request):
    with run_by(*WAYS[request.param]) as unroll:
        yield unroll


def these_ways(*ways):
    return pytest.mark.parametrize("unroll", ways, indirect=True)


def draw_controls(shape: Shape) -> dict[str, np.ndarray]:
    """Of every kind, for two sequences: one ends early, both are cut and have gaps."""
    random = np.random.default_rng(3)
    steps = (shape.time, *shape.batch)
    starts = random.uniform(size=steps) < 0.3
    starts[1] = True
    return {
        "lengths": np.array([shape.time, max(0, shape.time - 2)]),
        "mask": random.uniform(size=steps) < 0.8,
        "starts": starts,
    }


# What is kept and the direction do not meet: each is seen in either direction, with half the cells.
@pytest.mark.parametrize(
    ("case", "reverse", "checkpoint"),
    [
        (case, reverse, ("step" if reverse else None) if case in (GRU_AFTER, RNN) else other)
        for case in CASES
        for reverse, other in ((False, "step"), (True, None))
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_against_the_reference(unroll, case, reverse, checkpoint):
    problem = Problem.draw(case, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **draw_controls(SHAPE)}
    outcome = problem.run("float64", unroll, checkpoint=checkpoint, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", [GRU_BEFORE, LSTM], ids=str)
def test_low_precision(unroll, case, dtype):
    """The reference is given the same rounded numbers, and computes in float64."""
    problem = Problem.draw(case, SHAPE, learned_h0=True).rounded(dtype)
    controls = draw_controls(SHAPE)
    assert_close(problem.run(dtype, unroll, **controls), problem.expected(**controls), dtype)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("time", "block"), [(6, 3), (5, 3), (11, 3), (4, 1)])
@jax.enable_x64(True)
def test_blocks_of_any_number_of_steps(time, block, reverse):
    """Two blocks and no rest, one and a rest of two, three and a rest of two, blocks of a step."""
    shape = SHAPE._replace(time=time)
    problem = Problem.draw(GRU_AFTER, shape, learned_h0=True)
    controls = {"reverse": reverse, **draw_controls(shape)}
    with run_by("xla", in_blocks_of(block)) as unroll:
        outcome = problem.run("float64", unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@pytest.mark.parametrize("case", [GRU_AFTER, LSTM], ids=str)
def test_blocks_give_what_one_piece_gives(case):
    """Over so many steps and rows that the sums differ in their order."""
    problem = Problem.draw(case, Shape(time=47, batch=(8,), input=4, hidden=8))
    outcomes = []
    for tuning in (xla.Tuning(), in_blocks_of(5, sequences=8), in_blocks_of(5, inside=True)):
        with run_by("xla", tuning) as unroll:
            outcomes.append(problem.run("float32", unroll))
    for outcome in outcomes[1:]:
        assert_close(outcome, outcomes[0], "float32")


@these_ways(*OF_XLA)
@jax.enable_x64(True)
def test_gradients_of_one_argument_and_through_one_result(unroll):
    problem = Problem.draw(GRU_AFTER, SHAPE, learned_h0=True)
    controls = draw_controls(SHAPE)
    cell, xs, state = problem.inputs("float64")
    cotangents = jnp.asarray(problem.cotangent_state[0]), jnp.asarray(problem.cotangent_ys)

    def loss(which=(0, 1)):
        def total(*inputs):
            results = unroll(*inputs, **controls)
            return sum((results[index] * cotangents[index]).sum() for index in which)

        return total

    @jax.jit
    def gradients(*inputs):
        return {
            "all": jax.grad(loss(), (0, 1, 2))(*inputs),
            "alone": tuple(jax.grad(loss(), index)(*inputs) for index in range(3)),
            "through h_last": jax.grad(loss((0,)), (0, 1, 2))(*inputs),
            "through ys": jax.grad(loss((1,)), (0, 1, 2))(*inputs),
        }

    found = gradients(cell, xs, state)
    assert_close(found["alone"], found["all"], "float64")
    added = jax.tree.map(jnp.add, found["through h_last"], found["through ys"])
    assert_close(added, found["all"], "float64")
    assert jnp.abs(found["through h_last"][1]).max() > 1e-3
    with run_by("scan", xla.TUNING) as plain:
        unroll = plain
        assert_close(found, jax.jit(gradients.__wrapped__)(cell, xs, state), "float64")
