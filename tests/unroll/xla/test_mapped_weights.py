"""Gradients of mapped weights: one copy after another, with the values of a plain scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._autodiff import copies
from gru_jax._unroll import call_spec
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, GRU_BEFORE, LSTM, RNN, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but
from tests.unroll.tuning_overrides import force_chunks, override, unroll_with

COPIES = 3
SHAPE = ProblemSize(time=7, batch=(5,), input=2, hidden=3)
LENGTHS = np.array([7, 0, 3, 6, 1])
STARTS = np.random.default_rng(0).random((7, 5)) < 0.4


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(call_spec, "count_devices", lambda device: 1)


@pytest.fixture
def loops(monkeypatch):
    """The loops over copies that were traced."""
    traced, real = [], copies.lax.map
    monkeypatch.setattr(copies.lax, "map", lambda *args: traced.append(args) or real(*args))
    return traced


def in_turn(min_rows=1, **shards):
    tuning = force_chunks(3, sequences=SHAPE.batch[0])
    return override(tuning, copies={"min_elements": 0, "min_rows": min_rows}, shards=shards)


def copies_of(problem):
    """Parameters, inputs and states of several copies."""
    arguments = problem.inputs("float64")
    scales = jnp.arange(1.0, COPIES + 1)
    return jax.vmap(lambda scale: jax.tree.map(lambda leaf: scale * leaf, arguments))(scales)


def gradients(unroll, **options):
    def loss(params, xs, h0):
        h_last, ys = unroll(params, xs, h0, **options)
        states = sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves(h_last))
        return jnp.sin(ys).sum() + states

    return jax.value_and_grad(loss, (0, 1, 2))


def has_batched_matmuls(function, *arguments):
    return "batching_dims" in jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize(
    ("case", "shards", "checkpoint", "controls"),
    [
        (GRU_AFTER, 1, None, {"starts": STARTS, "lengths": LENGTHS}),
        (GRU_AFTER, 2, "step", {"reverse": True}),
        (LSTM, 1, "chunk", {"mask": ~STARTS}),
        slow(GRU_BEFORE, 1, None, {"starts": STARTS, "reverse": True}),
        slow(LSTM, 2, None, {"lengths": LENGTHS}),
        slow(RNN, 2, "step", {"starts": STARTS}),
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_against_the_scan(case, shards, checkpoint, controls):
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    arguments = copies_of(problem)
    tuning = in_turn(max_shards=shards, threshold=0, min_rows=1)
    with unroll_with("xla", tuning) as unroll:
        ours = jax.jit(jax.vmap(gradients(unroll, checkpoint=checkpoint, **controls)))(*arguments)
    by_scan = gradients(gru_jax.unroll, implementation="scan", **controls)
    assert_close(ours, jax.jit(jax.vmap(by_scan))(*arguments), "float64")


@pytest.mark.parametrize("least", [1, SHAPE.batch[0] + 1], ids=["in turn", "at once"])
@pytest.mark.parametrize("case", slow_but([GRU_AFTER], [GRU_AFTER, LSTM]), ids=str)
@jax.enable_x64(True)
def test_gradient_of_the_mean_over_copies(case, least):
    """The map is inside of the gradient, and in the jit of every call inside of the map."""
    arguments = copies_of(Problem.sample(case, SHAPE, learned_h0=True))

    def loss(unroll):
        def of_copy(*arguments):
            h_last, ys = unroll(*arguments, starts=STARTS)
            return jnp.sin(ys).mean() + sum(map(jnp.sum, jax.tree.leaves(h_last)))

        return lambda *arguments: jax.vmap(of_copy)(*arguments).mean()

    def derivatives(unroll):
        gradient = jax.grad(loss(unroll), (0, 1, 2))
        return gradient(*arguments), jax.jvp(gradient, arguments, arguments)[1]

    with unroll_with("xla", in_turn(min_rows=least)) as unroll:
        ours = derivatives(unroll)
    expected = derivatives(functools.partial(gru_jax.unroll, implementation="scan"))
    assert_close(ours, expected, "float64")


@jax.enable_x64(True)
def test_no_matmul_has_an_axis_of_copies():
    arguments = copies_of(Problem.sample(GRU_AFTER, SHAPE))
    of_several = jax.vmap(gradients(gru_jax.unroll))
    with unroll_with("xla", in_turn()):
        assert not has_batched_matmuls(of_several, *arguments)
    with unroll_with("xla", in_turn(min_rows=SHAPE.batch[0] + 1)):
        assert has_batched_matmuls(of_several, *arguments)


@jax.enable_x64(True)
def test_copies_in_copies(loops):
    """Environments that are mapped inside of seeds are more sequences of a copy."""
    cell, xs, h0 = copies_of(Problem.sample(GRU_AFTER, SHAPE))
    arguments = cell, *(jnp.stack([leaf, 2 * leaf], 1) for leaf in (xs, h0))

    def of_both(**options):
        of_seed = jax.vmap(gradients(gru_jax.unroll, **options), (None, 0, 0))
        return jax.jit(jax.vmap(of_seed))

    with unroll_with("xla", in_turn(min_rows=2 * SHAPE.batch[0] + 1)):
        of_both()(*arguments)
        assert not loops
    with unroll_with("xla", in_turn(min_rows=2 * SHAPE.batch[0])):
        ours = of_both()(*arguments)
        assert loops
    assert_close(ours, of_both(implementation="scan")(*arguments), "float64")


def test_explain_says_from_how_many_copies_on():
    cell = gru_jax.init(jax.random.key(0), 8, 64)
    text = str(gru_jax.explain(cell, jax.ShapeDtypeStruct((128, 16, 8), "float32")))
    assert "weights mapped by vmap: one copy after another, from 8 on" in text
