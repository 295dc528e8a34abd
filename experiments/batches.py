"""Batches of shuffled training sequences, whose size is checked against the data."""

from experiments.errors import UserError
from gru_jax.training import ShuffledIndices

# A batch of this many epochs or more is a mistake, and takes long to shuffle.
MAX_EPOCHS = 100


def shuffled_batches(seed: int, size: int, batch_size: int) -> ShuffledIndices:
    """Returns the indices of the batches of `size` training sequences.

    Raises:
        UserError: a batch has more than 100 times as many sequences.
    """
    if batch_size > MAX_EPOCHS * size:
        raise UserError(
            f"training.batch_size is {batch_size}, but should be at most {MAX_EPOCHS * size}: "
            f"there are {size} training sequences to take a batch from."
        )
    return ShuffledIndices(seed, size, batch_size)
