"""Properties of the copy memory task."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.runs.config_loading import check
from experiments.tasks import copy


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
    task = copy.build(check(copy.Config, {"task": "copy", "length": 30}, where="test"), None)
    _, targets = copy.sample_copies(50, 30, (copy.TEST,))
    nll = np.where(targets == copy.BLANK, 0, np.log(copy.SYMBOLS)).mean()
    (metrics,) = task.baselines().values()
    np.testing.assert_allclose(metrics["cross_entropy"], nll, rtol=1e-6)


def test_a_network_of_zeros_recalls_no_symbols():
    task = copy.build(check(copy.Config, {"task": "copy", "length": 30}, where="test"), None)
    metrics = task.evaluate(jax.tree.map(np.zeros_like, task.params), "test")
    assert metrics["recalled"] == 0
    np.testing.assert_allclose(metrics["cross_entropy"], np.log(copy.CLASSES), rtol=1e-6)
