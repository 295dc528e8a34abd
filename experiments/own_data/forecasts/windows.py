"""Windows of sequences: steps of input, and the steps after them that are to be forecast."""

from dataclasses import dataclass

import numpy as np

from experiments.errors import UserError
from experiments.own_data.batch import Batch
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding
from experiments.own_data.rounding import to_float32
from experiments.own_data.splits import PARTS, Part, Splits

# Windows of an evaluation, evenly spaced among all.
MOST_WINDOWS = {"validation": 4_000, "test": 20_000}


@dataclass(frozen=True)
class Windows:
    """All windows of all parts.

    Attributes:
        rows: (steps of all sequences, F) as :meth:`Encoding.align` returns them, float32.
        first: (sequences,) row of each sequence's first step.
        deviation: (sequences, K), float32.
        starts: by part (N,), the row where a window begins.
        sequence: by part (N,), its sequence.
        window, horizon: steps.
        num_targets: K; the targets are the first features.
        reads_ahead: whether inputs include the steps of the horizon.
    """

    rows: np.ndarray
    first: np.ndarray
    deviation: np.ndarray
    starts: dict[Part, np.ndarray]
    sequence: dict[Part, np.ndarray]
    window: int
    horizon: int
    num_targets: int
    reads_ahead: bool

    def gather(self, part: Part, chosen: np.ndarray) -> Batch:
        """Returns the windows of these indices."""
        starts = self.starts[part][chosen, None]
        ahead = self.rows[starts + np.arange(self.window, self.window + self.horizon)]
        inputs = self.rows[starts + np.arange(self.window)]
        if self.reads_ahead:
            # What is not known ahead is no input.
            inputs = self.rows[starts + np.arange(self.window + self.horizon)]
            inputs[:, self.window :, : self.num_targets] = np.nan
        deviation = self.deviation[self.sequence[part][chosen]]
        return Batch(inputs, ahead[..., : self.num_targets], deviation)

    def every(self, part: Part, most: int) -> np.ndarray:
        """Returns the indices of all windows of a part, or of `most` that are evenly spaced."""
        count = len(self.starts[part])
        return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def make_windows(
    config: SequencesConfig, dataset: Dataset, splits: Splits, encoding: Encoding
) -> Windows:
    """Returns the windows whose horizon lies within a part.

    Inputs of validation and test may reach back into the part before. A window without any target
    in its input or in its horizon is left out.

    Raises:
        UserError: a part has no window.
    """
    window, horizon = config.window, config.horizon
    aligned = encoding.align(dataset)
    rows = to_float32(aligned, encoding.features, str(config.data.path))
    lengths = np.array([len(values) for values in aligned])
    first = np.cumsum(lengths) - lengths
    num_targets = len(config.data.target)
    present = np.isfinite(rows[:, :num_targets]).any(axis=1)
    # The number of rows with a target ahead of each row.
    before = np.concatenate([[0], np.cumsum(present)])
    starts, sequence = {}, {}
    for part in PARTS:
        found = [
            first[index] + np.arange(max(begin, window) - window, end - horizon - window + 1)
            for index, (begin, end) in enumerate(splits.spans[part])
        ]
        of_part = np.concatenate(found)
        middle, end = of_part + window, of_part + window + horizon
        kept = (before[middle] > before[of_part]) & (before[end] > before[middle])
        starts[part] = of_part[kept]
        sequence[part] = np.repeat(np.arange(len(found)), list(map(len, found)))[kept]
        if not kept.any():
            steps = np.diff(splits.spans[part]).max(initial=0)
            raise UserError(
                f"{config.data.path}: window is {window} and horizon is {horizon}, but no sequence "
                f"has a window with targets in the {part} part. Its longest sequence there has "
                f"{steps:,} steps, with those before it {lengths.max():,}. Shorten them, or change "
                "data.validation and data.test."
            )
    return Windows(
        rows,
        first,
        _deviations(dataset, encoding, num_targets),
        starts,
        sequence,
        window,
        horizon,
        num_targets,
        any(feature.known_ahead for feature in encoding.features),
    )


def _deviations(dataset: Dataset, encoding: Encoding, num_targets: int) -> np.ndarray:
    """Returns each sequence's deviation of the targets in the training part, or that of all."""
    of_all = [feature.deviation for feature in encoding.features[:num_targets]]
    found = [
        encoding.of_sequences[name][1][:num_targets] if name in encoding.of_sequences else of_all
        for name in dataset.names
    ]
    return np.array(found, np.float32)
