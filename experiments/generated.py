"""Training batches of generated sequences."""

from collections.abc import Callable
from typing import TypeVar

import jax

from experiments.batches import shuffled_batches
from experiments.typing import Batch

Sequences = TypeVar("Sequences", bound=Batch)

TRAIN, VALIDATION, TEST = range(3)


def training_batches(
    sample: Callable[[int, tuple[int, ...]], Sequences],
    seed: int,
    batch_size: int,
    train_sequences: int | None,
) -> Callable[[int], Sequences]:
    """Returns a task's `batch_at`: fresh sequences in every batch, or epochs over a fixed set.

    Args:
        sample: (number of sequences, seed) -> sequences, a tuple of arrays (number, ...).
        seed: seed of fresh sequences, or of the order of a fixed set, which is the same for every
            seed.
        batch_size: sequences per batch.
        train_sequences: size of the fixed set, or None for fresh sequences.

    Raises:
        UserError: the fixed set is too small for a batch.
    """
    if train_sequences is None:
        return lambda step: sample(batch_size, (TRAIN, seed, step))
    batches = shuffled_batches(seed, train_sequences, batch_size)
    fixed = sample(train_sequences, (TRAIN,))

    def batch_at(step: int) -> Sequences:
        chosen = batches(step)
        return jax.tree.map(lambda array: array[chosen], fixed)

    return batch_at
