"""The processes of a run on several hosts: the first one writes, and what it decides holds for all.

With one process, as without `jax.distributed.initialize`, nothing here communicates.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is process 0, which alone writes logs, messages and records."""
    return jax.process_index() == 0


def of_first(values: Sequence[float]) -> list[float]:
    """Returns the values of process 0. All processes must call this, with equally many."""
    if jax.process_count() == 1:
        return list(values)
    # As bytes: without x64, JAX would round float64 to float32.
    data = np.asarray(values, np.float64).view(np.uint8)
    return multihost_utils.broadcast_one_to_all(data).view(np.float64).tolist()
