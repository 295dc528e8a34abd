"""Batches are not larger than the training set."""

import numpy as np
import pytest

from experiments.batches import shuffled_batches
from experiments.errors import UserError
from tests.experiments.conftest import changed


def test_a_batch_may_be_the_training_set():
    assert np.array_equal(np.sort(shuffled_batches(0, 5, 5)(3)), np.arange(5))


def test_a_batch_larger_than_the_training_set():
    with pytest.raises(UserError, match=r"training\.batch_size is 6, but should be at most 5"):
        shuffled_batches(0, 5, 6)


def test_it_is_told_before_anything_is_written(adding, digits, write_config, refused):
    adding["train_sequences"] = 7
    assert "should be at most 7" in refused("train", write_config(adding))
    digits = changed(digits, "training.batch_size", 10_000)
    assert "should be at most 1077" in refused("train", write_config(digits))
