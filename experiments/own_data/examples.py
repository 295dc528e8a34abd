"""Encoded sequences of a part, and batches of them that are padded little."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.batches import shuffled_batches
from experiments.errors import UserError
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.encoding import Encoding
from experiments.own_data.splits import Part, Splits
from experiments.typing import Array

MAX_BUCKETS = 4
# Longest sequence over shortest one up to which there is one bucket.
MAX_RATIO = 1.25
EVAL_BATCH = 128
EVAL_STEPS = 2**17
"""Steps of a batch of evaluation, at most, if it is more than one sequence."""


class Examples(NamedTuple):
    """Sequences padded to one length.

    Attributes:
        inputs: (N, T, E) float32.
        lengths: (N,) int32.
        targets: (N,), or (N, T): numbers, or indices of classes; NaN or -1 where there is none.
    """

    inputs: Array
    lengths: Array
    targets: Array


class EncodedPart(NamedTuple):
    """The sequences of a part in the order of their names, before padding.

    Attributes:
        inputs: N arrays (T_i, E).
        targets: (N,), or N arrays (T_i,).
    """

    inputs: list[np.ndarray]
    targets: Any


def in_order_of_names(dataset: Dataset) -> Dataset:
    """Returns a data set whose sequences are in the order of their names, not of the files.

    Raises:
        UserError: a sequence has no steps.
    """
    empty = [name for name, of in zip(dataset.names, dataset.inputs, strict=True) if not len(of)]
    if empty:
        raise UserError(f"The sequence {empty[0]} has no steps.")
    order = sorted(range(len(dataset.names)), key=lambda index: dataset.names[index])

    def chosen(values: Any) -> Any:
        if values is None:
            return None
        if isinstance(values, np.ndarray):
            return values[order]
        return tuple(values[index] for index in order)

    return Dataset(
        features=dataset.features,
        names=chosen(dataset.names),
        inputs=chosen(dataset.inputs),
        target=dataset.target,
        targets=chosen(dataset.targets),
        times=chosen(dataset.times),
        lines=chosen(dataset.lines),
        split=chosen(dataset.split),
        notes=dataset.notes,
    )


def encode_parts(
    dataset: Dataset, splits: Splits, encoding: Encoding, config: SequencesConfig
) -> dict[Part, EncodedPart]:
    """Returns the parts of an encoded data set with targets.

    Where the time is divided, a part's sequences begin at their first step, which is what the
    network has read before, but have targets in the part only.
    """
    inputs = encoding.encode(dataset)
    targets = encoding.encode_targets(dataset, config.data)
    parts = {}
    for part, spans in splits.spans.items():
        chosen = splits.sequences(part)
        if isinstance(targets, np.ndarray):
            chosen = chosen[is_given(targets[chosen])]
            parts[part] = EncodedPart([inputs[i] for i in chosen], targets[chosen])
            continue
        of_steps = []
        for index in chosen:
            begin, end = spans[index]
            within = targets[index][:end].copy()
            within[:begin] = no_target(within.dtype)
            of_steps.append(within)
        parts[part] = EncodedPart([inputs[i][: spans[i][1]] for i in chosen], of_steps)
    return parts


def no_target(dtype: Any) -> float | int:
    """Returns what stands for no target in arrays of a dtype."""
    return np.nan if np.issubdtype(dtype, np.floating) else -1


def is_given(targets: np.ndarray) -> np.ndarray:
    """Returns where there are targets."""
    return ~np.isnan(targets) if np.issubdtype(targets.dtype, np.floating) else targets >= 0


def pad(
    inputs: Sequence[np.ndarray], targets: Any, longest: int | None = None, rows: int | None = None
) -> Examples:
    """Pads sequences to `longest` steps, and adds empty ones up to a number of `rows`."""
    longest = longest or max(map(len, inputs))
    rows = rows or len(inputs)
    padded = np.zeros((rows, longest, inputs[0].shape[1]), np.float32)
    lengths = np.zeros(rows, np.int32)
    first = targets[0]
    shape = (rows,) if np.ndim(first) == 0 else (rows, longest)
    expected = np.full(shape, no_target(first.dtype), first.dtype)
    for index, (values, target) in enumerate(zip(inputs, targets, strict=True)):
        padded[index, : len(values)] = values
        lengths[index] = len(values)
        expected[(index, slice(len(values)))[: expected.ndim]] = target
    return Examples(padded, lengths, expected)


class BucketedBatches:
    """The batch of each step, of sequences of similar lengths.

    The bucket of a step is a function of the step only, its sequences one of (seed, step).
    """

    def __init__(self, part: EncodedPart, seed: int, batch_size: int):
        lengths = np.array([len(values) for values in part.inputs])
        order = np.argsort(lengths, kind="stable")
        number = 1
        if lengths.max() > MAX_RATIO * lengths.min():
            number = int(np.clip(len(order) // batch_size, 1, MAX_BUCKETS))
        bounds = np.linspace(0, len(order), number + 1).round().astype(int)
        self.buckets = [
            pad([part.inputs[i] for i in order[a:b]], [part.targets[i] for i in order[a:b]])
            for a, b in itertools.pairwise(bounds)
        ]
        self.batches = [
            shuffled_batches(seed, len(bucket.lengths), batch_size) for bucket in self.buckets
        ]

    def __call__(self, step: int) -> Examples:
        """Returns the batch of a step."""
        # Each cycle visits every bucket once, in another random order.
        cycle, position = divmod(step, len(self.buckets))
        chosen = np.random.default_rng(cycle).permutation(len(self.buckets))[position]
        indices = self.batches[chosen](cycle)
        return Examples(*(array[indices] for array in self.buckets[chosen]))


def evaluation_batches(
    inputs: Sequence[np.ndarray], targets: Any
) -> Iterator[tuple[np.ndarray, Examples]]:
    """Yields the indices of sequences of similar lengths, and these, padded to one of few shapes.

    Shapes are few, because a program is compiled for each.
    """
    lengths = np.array([len(values) for values in inputs])
    order = np.argsort(lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin : begin + EVAL_BATCH]].max())
        rows = min(EVAL_BATCH, max(1, EVAL_STEPS // longest), _rounded_up(len(order)))
        chosen = order[begin : begin + rows]
        padded = _rounded_up(int(lengths[chosen].max()))
        yield chosen, pad([inputs[i] for i in chosen], [targets[i] for i in chosen], padded, rows)
        begin += rows


def _rounded_up(size: int) -> int:
    """Returns the least of 1, 2, 3, 4, 6, 8, 12, 16, 24 ... that is as large."""
    power = 1 << max(0, size - 1).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power
