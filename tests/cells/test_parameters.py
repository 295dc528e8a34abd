"""Parameters as pytrees: what is a leaf, what is structure, and what does not fit together."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import gru_jax
from tests.assert_trees import assert_equal
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, RNN, Problem
from tests.shapes import ProblemSize

SMALL = ProblemSize(time=3, batch=(2,), input=3, hidden=4)


def sample_cell(case, **options) -> gru_jax.Cell:
    return case.cell(case.sample_weights(SMALL, **options), "float32")


@pytest.mark.parametrize("learned_h0", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_absent_is_no_leaf(case, bias, learned_h0):
    cell = case.init(jax.random.key(0), 3, 4, bias=bias, learned_h0=learned_h0, **case.static)
    weights = case.sample_weights(SMALL, bias=bias, learned_h0=learned_h0)
    present = {
        item.name: getattr(cell, item.name).shape
        for item in dataclasses.fields(cell)
        if item.name not in case.static and getattr(cell, item.name) is not None
    }
    assert present == {name: value.shape for name, value in weights.items()}
    assert len(jax.tree.leaves(cell)) == len(weights)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_leaves_have_the_fields_names(case):
    cell = sample_cell(case, learned_h0=True)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(cell)]
    assert paths == [f".{name}" for name in case.sample_weights(SMALL, learned_h0=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flatten_and_unflatten(case):
    cell = sample_cell(case)
    leaves, structure = jax.tree.flatten(cell)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert type(rebuilt) is type(cell)
    assert_equal(rebuilt, cell)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, cell)
    assert_equal(doubled.w_h, 2 * cell.w_h)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_frozen(case):
    cell = sample_cell(case)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.w_x = cell.w_x


def test_cells_and_states_print_shapes():
    assert repr(sample_cell(GRU_AFTER, bias=False)) == (
        "GRUParams(w_x=f32[3,12], w_h=f32[4,12], b=None, b_hn=None, h0=None, reset='after')"
    )
    state = sample_cell(LSTM).initial_state((2,))
    assert repr(state) == "LSTMState(h=f32[2,4], c=f32[2,4])"
    assert repr((state, None)) == "(LSTMState(h=f32[2,4], c=f32[2,4]), None)"


def test_custom_cells_print_shapes_unless_they_print_themselves():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Plain(gru_jax.Cell):
        w: jax.Array

    @dataclasses.dataclass(frozen=True, eq=False)
    class Named(Plain):
        def __repr__(self):
            return "named"

    @dataclasses.dataclass(frozen=True, eq=False)
    class Derived(Named):
        pass

    w = jnp.zeros((3, 4))
    assert repr(Plain(w)).endswith("Plain(w=f32[3,4])")
    assert repr(Named(w)) == repr(Derived(w)) == "named"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cells_compare_by_identity(case):
    cell = sample_cell(case)
    same = dataclasses.replace(cell)
    assert cell == cell
    assert cell != same
    assert len({cell, same, cell}) == 2


def test_states_compare_by_identity():
    state = sample_cell(LSTM).initial_state((2,))
    same = state._replace()
    assert state == state
    assert state != same
    assert len({state, same, state}) == 2
    h, c = state
    assert_equal(same, type(state)(h, c))


def test_the_equation_is_structure():
    """So that a checkpoint or an optimiser's state of one equation never meets the other."""
    after, before = sample_cell(GRU_AFTER, bias=False), sample_cell(GRU_BEFORE, bias=False)
    assert jax.tree.structure(after) != jax.tree.structure(before)
    # JAX 0.10.1 says "node data".
    with pytest.raises(ValueError, match=r"metadata|node data"):
        jax.tree.map(lambda a, b: a + b, after, before)


def test_one_compilation_per_equation():
    step = jax.jit(gru_jax.step)
    _, xs, state = Problem.sample(GRU_AFTER, SMALL).inputs("float32")
    cells = [sample_cell(case, bias=False) for case in (GRU_AFTER, GRU_BEFORE)]
    after, before = (step(cell, state, xs[0]) for cell in cells)
    assert jnp.abs(after - before).max() > 0.01


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_and_optax_updates_are_cells(case):
    cell, xs, state = Problem.sample(case, SMALL).inputs("float32")
    optimizer = optax.sgd(0.01, momentum=0.9)

    @jax.jit
    def update(cell):
        def loss(cell):
            return jnp.square(gru_jax.unroll(cell, xs, state)[1]).sum()

        value, gradient = jax.value_and_grad(loss)(cell)
        assert jax.tree.structure(gradient) == jax.tree.structure(cell)
        updates, _ = optimizer.update(gradient, optimizer.init(cell), cell)
        return value, optax.apply_updates(cell, updates)

    before, updated = update(cell)
    assert update(updated)[0] < before


def test_reset_before_has_no_b_hn():
    cell, xs, state = Problem.sample(GRU_AFTER, SMALL).inputs("float32")
    with pytest.raises(ValueError, match="b_hn"):
        gru_jax.unroll(dataclasses.replace(cell, reset="before"), xs, state)
    with pytest.raises(ValueError, match="b_hn"):
        gru_jax.step(dataclasses.replace(cell, reset="before"), state, xs[0])


def test_unknown_equation():
    cell, xs, state = Problem.sample(GRU_AFTER, SMALL).inputs("float32")
    with pytest.raises(ValueError, match="reset"):
        gru_jax.unroll(dataclasses.replace(cell, reset="never"), xs, state)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *((GRU_AFTER, name) for name in ("w_x", "w_h", "b", "b_hn", "h0")),
        *((LSTM, name) for name in ("w_x", "w_h", "b", "h0", "c0")),
        *((RNN, name) for name in ("w_x", "w_h", "b", "h0")),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda leaf: leaf[..., :-1], ValueError),
        (lambda leaf: leaf[None], ValueError),
        (lambda leaf: leaf.astype(jnp.int32), TypeError),
        (lambda leaf: "array", TypeError),
    ],
    ids=["size", "rank", "dtype", "type"],
)
def test_leaf_that_does_not_fit_is_named(case, name, change, error):
    cell, xs, state = Problem.sample(case, SMALL, learned_h0=True).inputs("float32")
    wrong = dataclasses.replace(cell, **{name: change(getattr(cell, name))})
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.unroll(wrong, xs, state)
