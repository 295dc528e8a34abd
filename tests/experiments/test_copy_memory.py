"""Properties of the copy memory task."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.generated import TEST
from experiments.runs.config_loading import check
from experiments.tasks import copy


def build(**values):
    config = check(copy.Config, {"task": "copy", "length": 30, **values}, where="test")
    return copy.build(config, None)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.integers(1, 50), st.integers(0, 2**31))
def test_targets_repeat_the_inputs(number, length, seed):
    inputs, targets = copy.sample_copies(number, length, (seed,))
    assert inputs.shape == targets.shape == (number, length + 20)
    np.testing.assert_array_equal(targets[:, -10:], inputs[:, :10])
    assert (targets[:, :-10] == copy.BLANK).all()
    assert set(np.unique(inputs[:, :10])) <= set(range(1, 9))
    assert (inputs[:, 10:-11] == copy.BLANK).all()
    assert (inputs[:, -11:] == copy.SIGNAL).all()


def test_the_baseline_is_the_optimum_without_memory():
    """Blanks have probability 1, and symbols are uniform."""
    task = build()
    _, targets = copy.sample_copies(50, 30, (TEST,))
    nll = np.where(targets == copy.BLANK, 0, np.log(copy.SYMBOLS)).mean()
    (metrics,) = task.evaluate_baselines().values()
    np.testing.assert_allclose(metrics["cross_entropy"], nll, rtol=1e-6)


@pytest.mark.parametrize("classes", [9, 10])
def test_a_network_of_zeros_recalls_no_symbols(classes):
    task = build(classes=classes)
    metrics = task.evaluate(jax.tree.map(np.zeros_like, task.params), "test")
    assert metrics["recalled"] == 0
    np.testing.assert_allclose(metrics["cross_entropy"], np.log(classes), rtol=1e-6)


def test_a_scalar_input_is_the_number_of_the_symbol():
    """A one-hot network whose input weights are the numbers equals a scalar network."""
    scalar, one_hot = build(inputs="scalar"), build(inputs="one-hot")
    assert scalar.export_spec.dtype == "float32"
    batch = scalar.batch_at(0)
    (w_x,) = [leaf for leaf in jax.tree.leaves(scalar.params) if leaf.shape[0] == 1]
    weights = np.arange(10, dtype=np.float32)[:, None] * w_x
    params = jax.tree.map(
        lambda mine, theirs: weights if mine.shape != theirs.shape else theirs,
        one_hot.params,
        scalar.params,
    )
    expected, _ = one_hot.loss(params, batch, None)
    np.testing.assert_allclose(scalar.loss(scalar.params, batch, None)[0], expected, rtol=1e-5)
    exported = scalar.export_spec.apply(scalar.params, batch.inputs.astype(np.float32), None)
    other = one_hot.export_spec.apply(params, batch.inputs, None)
    np.testing.assert_allclose(exported, other, rtol=1e-4, atol=1e-6)
