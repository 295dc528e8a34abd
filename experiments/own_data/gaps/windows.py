"""Windows of sequences in which known values are hidden, for a network to find."""

from dataclasses import dataclass

import numpy as np

from experiments.errors import UserError
from experiments.own_data.batch import Batch
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding
from experiments.own_data.rounding import to_float32
from experiments.own_data.splits import PARTS, Part, Splits

# Of the known values of a window.
HIDDEN = 0.2
# Steps in a row that are hidden in half of the windows.
RUN = 3


@dataclass(frozen=True)
class Windows:
    """All windows of all parts.

    Attributes:
        rows: (steps of all sequences, F) as :meth:`Encoding.align` returns them, float32.
        deviation: (sequences, K), float32.
        starts: by part (N,), the row where a window begins. Those for training overlap.
        ends: by part (N,), the row after its last; what is beyond is missing.
        sequence: by part (N,), its sequence.
        window: steps.
        numbers: the K features that are numbers.
    """

    rows: np.ndarray
    deviation: np.ndarray
    starts: dict[Part, np.ndarray]
    ends: dict[Part, np.ndarray]
    sequence: dict[Part, np.ndarray]
    window: int
    numbers: list[int]

    def gather(self, part: Part, chosen: np.ndarray, seed: tuple[int, ...]) -> Batch:
        """Returns the windows of these indices, with values hidden at random."""
        places = self.starts[part][chosen, None] + np.arange(self.window)
        inputs = self.rows[np.minimum(places, len(self.rows) - 1)]
        inputs[places >= self.ends[part][chosen, None]] = np.nan
        known = inputs[..., self.numbers]
        is_hidden = hidden(known.shape, seed)
        inputs[..., self.numbers] = np.where(is_hidden, np.nan, known)
        deviation = self.deviation[self.sequence[part][chosen]]
        return Batch(inputs, np.where(is_hidden, known, np.nan), deviation)


def hidden(shape: tuple[int, ...], seed: tuple[int, ...]) -> np.ndarray:
    """Returns which values (N, window, K) are hidden: in half of the windows whole steps in runs.

    In the others they are single values.
    """
    rng = np.random.default_rng(seed)
    number, window, _ = shape
    single = rng.random(shape) < HIDDEN
    begins = rng.random((number, window + RUN - 1, 1)) < HIDDEN / RUN
    runs = np.any([begins[:, step : step + window] for step in range(RUN)], axis=0)
    return np.where(rng.random((number, 1, 1)) < 0.5, single, runs)


def make_windows(
    config: SequencesConfig, dataset: Dataset, splits: Splits, encoding: Encoding
) -> Windows:
    """Returns the windows of each part, which do not reach beyond it.

    Raises:
        UserError: no feature is a number, or the training part has no window with two numbers.
    """
    window = config.window
    numbers = [place for place, each in enumerate(encoding.features) if each.categories is None]
    if not numbers:
        raise UserError(f"{config.data.path}: no feature is a number, and only these are imputed.")
    aligned = encoding.align(dataset)
    rows = to_float32(aligned, encoding.features, str(config.data.path))
    lengths = np.array([len(values) for values in aligned])
    first = np.cumsum(lengths) - lengths
    present = np.isfinite(rows[:, numbers]).sum(axis=1)
    before = np.concatenate([[0], np.cumsum(present)])
    starts, ends, sequence = {}, {}, {}
    for part in PARTS:
        stride = 1 if part == "train" else window
        begins, stops, of_sequence = [], [], []
        for index, (begin, end) in enumerate(splits.spans[part] + first[:, None]):
            last = max(end - window, begin) if part == "train" else max(end - 1, begin)
            found = np.arange(begin, last + 1, stride)
            begins.append(found)
            stops.append(np.minimum(found + window, end))
            of_sequence.append(np.full(len(found), index))
        of_part, stop = np.concatenate(begins), np.concatenate(stops)
        # One number to hide, and one to hide it from.
        kept = before[stop] - before[of_part] > 1
        if not kept.any():
            raise UserError(
                f"{config.data.path}: the {part} part has no window of {window} steps with two "
                "numbers."
            )
        starts[part], ends[part] = of_part[kept], stop[kept]
        sequence[part] = np.concatenate(of_sequence)[kept]
    of_all = np.array([each.deviation for each in encoding.features])
    of_sequences = [
        np.array(encoding.of_sequences[name][1]) if name in encoding.of_sequences else of_all
        for name in dataset.names
    ]
    deviation = np.array(of_sequences, np.float32)[:, numbers]
    return Windows(rows, deviation, starts, ends, sequence, window, numbers)
