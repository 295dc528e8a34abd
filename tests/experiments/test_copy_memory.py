"""Laws of the copy memory."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.runs.config_loading import check
from experiments.tasks import copy


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.integers(1, 50), st.integers(0, 2**31))
def test_what_is_written_is_what_was_read(number, length, seed):
    read, written = copy.draw_copies(number, length, (seed,))
    assert read.shape == written.shape == (number, length + 20)
    np.testing.assert_array_equal(written[:, -10:], read[:, :10])
    assert (written[:, :-10] == copy.BLANK).all()
    assert set(np.unique(read[:, :10])) <= set(range(1, 9))
    assert (read[:, 10:-11] == copy.BLANK).all()
    assert (read[:, -11:] == copy.SIGNAL).all()


def test_a_model_without_memory_can_do_no_better_than_the_baseline():
    """The blanks for sure, and each symbol as likely as the others."""
    task = copy.build(check(copy.Config, {"task": "copy", "length": 30}, where="test"), None)
    _, written = copy.draw_copies(50, 30, (copy.TEST,))
    nll = np.where(written == copy.BLANK, 0, np.log(copy.SYMBOLS)).mean()
    (figures,) = task.baselines().values()
    np.testing.assert_allclose(figures["cross_entropy"], nll, rtol=1e-6)


def test_a_network_that_says_nothing_recalls_blanks_only():
    task = copy.build(check(copy.Config, {"task": "copy", "length": 30}, where="test"), None)
    figures = task.figures(jax.tree.map(np.zeros_like, task.params), "test")
    assert figures["recalled"] == 0
    np.testing.assert_allclose(figures["cross_entropy"], np.log(copy.CLASSES), rtol=1e-6)
