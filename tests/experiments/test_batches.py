"""The size of a batch is bounded by that of the training set."""

import numpy as np
import pytest

from experiments.batches import shuffled_batches
from experiments.errors import UserError
from tests.experiments.conftest import changed


def test_a_batch_may_hold_a_sequence_several_times():
    assert np.array_equal(np.sort(shuffled_batches(0, 5, 10)(3)), np.repeat(np.arange(5), 2))
    assert shuffled_batches(0, 5, 500)(0).shape == (500,)


def test_a_batch_too_large_for_the_training_set():
    with pytest.raises(UserError, match=r"batch_size is 501, but should be at most 500: there are"):
        shuffled_batches(0, 5, 501)


def test_it_is_told_before_anything_is_written(adding, digits, write_config, user_error):
    adding = changed({**adding, "train_sequences": 7}, "training.batch_size", 701)
    assert "should be at most 700" in user_error("train", write_config(adding))
    digits = changed(digits, "training.batch_size", 1_000_000)
    assert "there are 1077 training sequences" in user_error("train", write_config(digits))
