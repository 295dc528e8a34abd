"""Order of the training data, as a function of (seed, step)."""

import dataclasses
import functools

import numpy as np

from gru_jax import _checks


@dataclasses.dataclass(frozen=True)
class ShuffledIndices:
    """Indices of endless shuffled epochs, split into batches of one size.

    Each epoch is a permutation of all examples, sampled from (seed, epoch). The epochs are
    concatenated, and batch ``step`` takes the positions ``step * batch_size`` to
    ``(step + 1) * batch_size``. A batch may therefore span two epochs, and no example is dropped
    at an epoch's end. A resumed run reads the same batches as an uninterrupted one.

    Attributes:
        seed: seed of the permutations, 0 or above.
        size: number of examples.
        batch_size: number of examples in a batch.

    Raises:
        TypeError: a size or the seed is not an integer.
        ValueError: a size is not positive, or the seed is negative.
    """

    seed: int
    size: int
    batch_size: int

    def __post_init__(self) -> None:
        _checks.positive_int("size", self.size)
        _checks.positive_int("batch_size", self.batch_size)
        _checks.non_negative_int("seed", self.seed)

    def __call__(self, step: int) -> np.ndarray:
        """Returns the indices of batch ``step``, counted from 0: int64 (batch_size,).

        Raises:
            TypeError: ``step`` is not an integer.
            ValueError: ``step`` is negative.
        """
        step = _checks.non_negative_int("step", step)
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.size)
        indices = np.empty(self.batch_size, np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            in_epoch = epochs == epoch
            indices[in_epoch] = _permutation(self.seed, self.size, epoch)[offsets[in_epoch]]
        return indices


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, size: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
