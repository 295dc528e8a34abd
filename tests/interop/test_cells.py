"""Cells of Flax, Haiku and Equinox: the forms in which parameters come, and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as flax_linen
from flax import nnx as flax_nnx

from experiments.interop.models import Model
from gru_jax.interop import equinox, haiku, linen, nnx
from tests.assert_trees import assert_equal

AFTER, BEFORE = Model().init(0), Model(reset="before").init(0)
WITHOUT_B_HN = dataclasses.replace(AFTER, b_hn=None)


def test_linen_parameters_may_be_wrapped():
    bare = linen.dump(AFTER)
    for wrapped in (bare, {"params": bare}, {"params": {"cell": bare}}):
        assert_equal(linen.load(wrapped), AFTER)


def test_linen_takes_them():
    cell = flax_linen.GRUCell(5)
    variables = cell.init(jax.random.key(0), jnp.zeros((1, 5)), jnp.zeros((1, 3)))
    dumped = linen.dump(AFTER)
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, dumped)


def test_nnx_takes_them_and_gives_them():
    cell = flax_nnx.GRUCell(3, 5, rngs=flax_nnx.Rngs(0))
    flax_nnx.update(cell, nnx.dump(WITHOUT_B_HN))
    forms = [cell, flax_nnx.state(cell, flax_nnx.Param), nnx.dump(WITHOUT_B_HN)]
    for form in forms:
        assert_equal(nnx.load(form), WITHOUT_B_HN)


def test_nnx_has_no_bias_b_hn():
    with pytest.raises(ValueError, match=r"b_hn is not zero.*5594"):
        nnx.dump(AFTER)
    nnx.dump(dataclasses.replace(AFTER, b_hn=jnp.zeros(5)))


def test_nnx_cells_with_other_activations_are_rejected():
    for option in ("gate_fn", "activation_fn"):
        cell = flax_nnx.GRUCell(3, 5, rngs=flax_nnx.Rngs(0), **{option: flax_nnx.relu})
        with pytest.raises(ValueError, match=f"{option} is .*relu"):
            nnx.load(cell)


def test_haiku_parameters_stand_under_a_name():
    dumped = haiku.dump(BEFORE)
    assert_equal(haiku.load(dumped["gru"]), BEFORE)
    assert_equal(haiku.load({"my_model/~/gru": dumped["gru"]}), BEFORE)
    with pytest.raises(ValueError, match=r"'w_i'.*'gru', 'gru_1'"):
        haiku.load({"gru": dumped["gru"], "gru_1": dumped["gru"]})


def test_haiku_has_the_opposite_sign_for_the_update_gate():
    dumped = haiku.dump(Model(reset="before", input=1, hidden=1).init(0))["gru"]
    params = Model(reset="before", input=1, hidden=1).init(0)
    z, r, n = dumped["b"]
    np.testing.assert_array_equal(np.asarray(params.b), [r, -z, n])


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (linen, {"if": {}, "ii": {}}, "expected the parameters of flax.linen.GRUCell"),
        (linen, linen.dump(AFTER) | {"more": {}}, "expected a flax.linen.GRUCell"),
        (linen, linen.dump(AFTER) | {"hz": {"kernel": np.zeros((5, 4), "f")}}, "hz/kernel"),
        (
            linen,
            linen.dump(AFTER) | {"hr": np.zeros(3, "f")},
            "hr of a flax.linen.GRUCell",
        ),
        (linen, linen.dump(AFTER) | {"hn": {"kernel": np.zeros((5, 5), "f")}}, "hn of a"),
        (nnx, {"dense_i": {"kernel": np.zeros((3, 15), "f")}}, "expected a flax.nnx.GRUCell"),
        (nnx, flax_nnx.state(flax_nnx.LSTMCell(3, 5, rngs=flax_nnx.Rngs(0))), "dense_i"),
        (haiku, {"gru": {"w_i": np.zeros((3, 15), "f")}}, "expected a haiku.GRU"),
        (haiku, {"gru": haiku.dump(BEFORE)["gru"] | {"b": np.zeros(14, "f")}}, r"b has shape"),
    ],
)
def test_wrong_parameters_are_named(module, source, expected):
    with pytest.raises((ValueError, TypeError), match=expected):
        module.load(source)


@pytest.mark.parametrize("module", [linen, nnx, haiku, equinox])
def test_other_arguments_are_rejected(module):
    with pytest.raises(TypeError, match=r"expected .* got int"):
        module.load(3)
    with pytest.raises(ValueError, match="at least one layer"):
        module.load(())
