"""Parameters work wherever a dictionary of arrays does."""

import copy
import dataclasses
import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax.training.train_state import TrainState

import gru_jax
import gru_jax.nn

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def cell():
    return gru_jax.init(KEY, 2, 3, bias_init="torch")


@pytest.fixture(scope="module")
def stack():
    return gru_jax.init_stack(
        KEY, 2, 3, num_layers=2, bidirectional=True, init_cell=gru_jax.init_lstm
    )


@pytest.fixture(params=["cell", "stack"])
def params(request):
    return request.getfixturevalue(request.param)


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    chex.assert_trees_all_equal(actual, expected)


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def test_train_state(params):
    optimizer = optax.sgd(1.0)
    state = TrainState.create(apply_fn=None, params=params, tx=optimizer)
    assert_same(state.apply_gradients(grads=params).params, zeros(params))
    nested = TrainState.create(apply_fn=None, params={"core": params}, tx=optax.adam(1.0))
    restored = flax.serialization.from_bytes(
        nested.replace(params={"core": zeros(params)}), flax.serialization.to_bytes(nested)
    )
    assert_same(restored.params["core"], params)


def test_flax_serialization(params):
    saved = flax.serialization.to_bytes(params)
    assert_same(flax.serialization.from_bytes(zeros(params), saved), params)


def test_flax_serialization_names_arrays_by_their_fields(cell):
    assert list(flax.serialization.to_state_dict(cell)) == ["w_x", "w_h", "b", "b_hn"]
    with pytest.raises(ValueError, match=r"GRUParams has w_x, w_h; .* has w_x, w_h, b, b_hn"):
        flax.serialization.from_state_dict(
            gru_jax.init(KEY, 2, 3, bias=False), flax.serialization.to_state_dict(cell)
        )


def test_flax_serialization_of_another_cell(cell):
    @gru_jax.nn.register_serialization
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Other(gru_jax.GRUParams):
        pass

    other = Other(cell.w_x, cell.w_h)
    restored = flax.serialization.from_bytes(zeros(other), flax.serialization.to_bytes(other))
    assert_same(restored, other)


def test_optimizers_by_label_and_mask(params):
    def is_matrix(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "held" if jax.tree_util.keystr(path).endswith("w_h") else "moved",
            params,
        )

    by_label = optax.multi_transform({"held": optax.set_to_zero(), "moved": optax.sgd(1.0)}, labels)
    updates, _ = by_label.update(params, by_label.init(params), params)
    moved = optax.apply_updates(params, updates)
    for (path, leaf), old in zip(
        jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(params), strict=True
    ):
        held = jax.tree_util.keystr(path).endswith("w_h")
        np.testing.assert_array_equal(leaf, old if held else 0 * old)

    decayed = optax.add_decayed_weights(1.0, mask=is_matrix)
    updates, _ = decayed.update(zeros(params), decayed.init(params), params)
    expected = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else 0 * leaf, params)
    assert_same(updates, expected)


def test_orbax(params, tmp_path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", params)
        checkpointer.wait_until_finished()
        assert_same(checkpointer.restore(tmp_path / "saved", zeros(params)), params)


def test_copies(params):
    for copied in (copy.copy(params), copy.deepcopy(params), pickle.loads(pickle.dumps(params))):
        assert copied is not params
        assert_same(copied, params)


def test_replace(cell):
    other = dataclasses.replace(cell, b=None)
    assert other.b is None
    assert other.w_x is cell.w_x
    assert cell.b is not None


def test_paths_are_names_of_fields_and_indices(cell, stack):
    def paths(params):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]

    assert paths(cell) == ["w_x", "w_h", "b", "b_hn"]
    assert paths(stack)[3:5] == ["layers/0/1/w_x", "layers/0/1/w_h"]


def test_membership_is_of_the_names_of_parameters(cell, stack):
    assert "w_x" in cell
    assert "h0" not in cell
    assert "other" not in cell
    assert "layers" in stack
