"""Properties of the data's order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_jax import training

sizes = st.integers(1, 40)


@given(st.integers(0, 5), sizes, sizes, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_batches_are_concatenated_epochs(seed, size, batch_size, epochs):
    batches = training.ShuffledIndices(seed, size, batch_size)
    steps = -(-size * epochs // batch_size)
    order = np.concatenate([batches(step) for step in range(steps)])
    assert order.shape == (steps * batch_size,)
    for epoch in range(epochs):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(st.integers(0, 5), sizes, sizes, st.lists(st.integers(0, 1000), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(seed, size, batch_size, steps):
    called_before = training.ShuffledIndices(seed, size, batch_size)
    for step in steps:
        called_before(step)
    fresh = training.ShuffledIndices(seed, size, batch_size)
    assert np.array_equal(called_before(steps[0]), fresh(steps[0]))


def test_epochs_and_seeds_have_different_orders():
    first = training.ShuffledIndices(0, 100, 100)
    assert not np.array_equal(first(0), first(1))
    assert not np.array_equal(first(0), training.ShuffledIndices(1, 100, 100)(0))


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((-1, 3, 3), ValueError, "seed"),
        ((0, 0, 3), ValueError, "size"),
        ((0, 3, 0), ValueError, "batch_size"),
        ((0, 3, 2.5), TypeError, "batch_size"),
        ((None, 3, 3), TypeError, "seed"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, name):
    with pytest.raises(error, match=name):
        training.ShuffledIndices(*arguments)


@pytest.mark.parametrize(("step", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_a_wrong_step_is_named(step, error):
    with pytest.raises(error, match=f"step must be .*{step}"):
        training.ShuffledIndices(0, 3, 2)(step)
