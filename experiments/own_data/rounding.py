"""Own data in float32, in which networks compute."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.errors import UserError
from experiments.own_data.encoding import FeatureEncoding

# Maximum rounding error, relative to the change from row to row; both are root mean squares.
MAX_ROUNDING = 1e-2


def to_float32(
    aligned: Sequence[np.ndarray], features: Sequence[FeatureEncoding], path: str
) -> np.ndarray:
    """Returns the rows of all sequences, (sum of T_i, F), in the dtype in which a network computes.

    Args:
        aligned: N arrays (T_i, F), in the order of `features`.
        features: names, and which of them are numbers.
        path: of the data, for the error.

    Raises:
        UserError: the numbers of a feature are large and differ by little, so that rounding would
            change how they differ.
    """
    rows = np.concatenate(aligned)
    changes = np.concatenate([np.diff(values, axis=0) for values in aligned])
    for place, feature in enumerate(features):
        values = rows[:, place]
        given = changes[np.isfinite(changes[:, place]), place]
        if feature.categories is not None or not given.any():
            continue
        change = math.sqrt(np.mean(given**2))
        rounding = math.sqrt(np.nanmean((values - values.astype(np.float32)) ** 2))
        if rounding > MAX_ROUNDING * change:
            raise UserError(
                f"{path}: {feature.name} is {values[np.isfinite(values)][0]:.10g} and changes by "
                f"{change:.3g} from row to row, which float32 cannot tell apart. Networks compute "
                "in float32: subtract a number from the column."
            )
    return rows.astype(np.float32)
