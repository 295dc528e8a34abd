"""Type aliases of experiments."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Any
Batch = Any
Metrics = dict[str, float]
Split = Literal["validation", "test"]
LossFunction = Callable[..., tuple[jax.Array, Any]]
