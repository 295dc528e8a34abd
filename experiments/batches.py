"""Batches of shuffled training sequences, whose size is checked against the data."""

from experiments.errors import UserError
from gru_jax.training import ShuffledIndices


def shuffled_batches(seed: int, size: int, batch_size: int) -> ShuffledIndices:
    """Returns the indices of the batches of `size` training sequences.

    Raises:
        UserError: there are fewer sequences than in a batch.
    """
    if batch_size > size:
        raise UserError(
            f"training.batch_size is {batch_size}, but should be at most {size}, the number of "
            "training sequences that a batch is taken from."
        )
    return ShuffledIndices(seed, size, batch_size)
