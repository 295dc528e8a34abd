"""Numbers and categories of one's own data as features of a network, and predictions back again.

What is needed for it is fitted to the training part only. It is stored in a run as JSON, so that
`predict` and `export` need no training data.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.splits import Splits
from experiments.own_data.stored import Stored

LARGEST_ONE_HOT = 8
"""Categories of a feature up to which it is one-hot; above, it is embedded."""
LARGEST_EMBEDDING = 32
# Deviations of this fraction of the mean are rounding errors.
ROUNDING = 1e-12


class FeatureEncoding(Stored, frozen=True):
    """How a feature is encoded.

    Attributes:
        name: the feature.
        categories: those of the training part, in order; None for a number.
        known_ahead: as in :class:`Feature`.
        mean, deviation: of a number in the training part; the deviation of a constant is 1.
        has_missing: whether the training part lacks values of a number: then a further feature is 1
            where one is missing.
    """

    name: str
    categories: tuple[str, ...] | None = None
    known_ahead: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    has_missing: bool = False

    @property
    def is_embedded(self) -> bool:
        """Whether it has too many categories to be one-hot."""
        return self.categories is not None and len(self.categories) > LARGEST_ONE_HOT

    @property
    def width(self) -> int:
        """The number of its encoded features; 1 for the index of an embedded one."""
        if self.categories is None:
            return 1 + self.has_missing
        return 1 if self.is_embedded else len(self.categories)


class TargetEncoding(Stored, frozen=True):
    """How a target is encoded.

    Attributes:
        name: the target.
        classes: those of the training part, in order; None for a number.
        mean, deviation: of a number in the training part.
    """

    name: str
    classes: tuple[str, ...] | None = None
    mean: float = 0.0
    deviation: float = 1.0


class Encoding(Stored, frozen=True):
    """How features and target of a data set are encoded.

    Attributes:
        features: the features, in the order in which an exported program takes them.
        target: the target; None if there is none but features.
        scale: as in :class:`DataConfig`.
        of_sequences: for scale "sequence" of sequences that are divided by time, by name the means
            and the deviations of all features in the training part, (2, F). Other sequences are
            standardised by all of their own steps.
    """

    KEY: ClassVar[str] = "encoding"

    features: tuple[FeatureEncoding, ...]
    target: TargetEncoding | None = None
    scale: Literal["all", "sequence", "none"] = "all"
    of_sequences: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = Field(default={})

    @property
    def width(self) -> int:
        """The number of encoded features, E. Indices of embedded ones are the last columns."""
        return sum(feature.width for feature in self.features)

    @property
    def embeddings(self) -> tuple[tuple[int, int], ...]:
        """The number of categories and the size of each embedding."""
        counts = [len(f.categories or ()) for f in self.features if f.is_embedded]
        return tuple((count, min(LARGEST_EMBEDDING, round(count**0.5) + 1)) for count in counts)

    def encode(self, dataset: Dataset) -> tuple[np.ndarray, ...]:
        """Returns N arrays (T_i, E), float32.

        A missing number is 0, which is the mean, and an unknown category 0 in all features.

        Raises:
            UserError: the data set lacks a feature.
        """
        return tuple(
            self.encode_values(values, *self.statistics(values, name), np).astype(np.float32)
            for name, values in zip(dataset.names, self._aligned(dataset), strict=True)
        )

    def align(self, dataset: Dataset) -> tuple[np.ndarray, ...]:
        """Returns N arrays (T_i, F), as an exported program takes them: features in this order.

        Numbers are unchanged; categories are indices into those of the training part, and -1 if
        they are not among them.

        Raises:
            UserError: the data set lacks a feature, or has categories for numbers or the reverse.
        """
        return tuple(self._aligned(dataset))

    def _aligned(self, dataset: Dataset) -> Iterator[np.ndarray]:
        columns = {feature.name: index for index, feature in enumerate(dataset.features)}
        chosen, tables = [], []
        for feature in self.features:
            if feature.name not in columns:
                raise UserError(
                    f"There is no feature {feature.name}, which the model was trained with; there "
                    f"are {', '.join(columns)}."
                )
            column = columns[feature.name]
            theirs = dataset.features[column].categories
            # A column without any value is either.
            empty = all(np.isnan(values[:, column]).all() for values in dataset.inputs)
            if (theirs is None) != (feature.categories is None) and not empty:
                kinds = ("numbers", "categories")
                raise UserError(
                    f"{feature.name} has {kinds[theirs is not None]}, but had "
                    f"{kinds[theirs is None]} when the model was trained."
                )
            chosen.append(column)
            tables.append(_table(theirs, feature.categories))
        for values in dataset.inputs:
            values = values[:, chosen].astype(np.float64)
            for column, table in enumerate(tables):
                if table is not None:
                    values[:, column] = _looked_up(table, values[:, column])
            yield values

    def statistics(self, values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means and the deviations that standardise a sequence's features, (F,) each.

        Args:
            values: (T, F), in the order of `features`.
            name: the sequence.
        """
        if self.scale == "sequence":
            if name in self.of_sequences:
                mean, deviation = map(np.array, self.of_sequences[name])
                return mean, deviation
            numbers = np.array([feature.categories is None for feature in self.features])
            mean, deviation = mean_and_deviation(values)
            return np.where(numbers, mean, 0.0), np.where(numbers, deviation, 1.0)
        return (
            np.array([feature.mean for feature in self.features]),
            np.array([feature.deviation for feature in self.features]),
        )

    def encode_values(self, values: Any, mean: Any, deviation: Any, xp: Any) -> Any:
        """Encodes values (..., F) as (..., E), with NumPy or `jax.numpy` as `xp`.

        Args:
            values: as :meth:`align` returns them.
            mean, deviation: of the features, (F,), or (..., F) with axes of size 1.
            xp: the library.
        """
        columns, indices = [], []
        for index, feature in enumerate(self.features):
            value = values[..., index : index + 1]
            missing = xp.isnan(value)
            if feature.categories is None:
                at = (..., slice(index, index + 1))
                scaled = (value - _as_rank(mean[at], value)) / _as_rank(deviation[at], value)
                columns.append(xp.where(missing, xp.zeros_like(value), scaled))
                if feature.has_missing:
                    columns.append(missing.astype(value.dtype))
            elif feature.is_embedded:
                size = len(feature.categories)
                is_known = (value >= 0) & (value < size)
                indices.append(xp.where(is_known, value, xp.full_like(value, size)))
            else:
                every = _as_rank(xp.arange(len(feature.categories), dtype=value.dtype), value)
                columns.append((value == every).astype(value.dtype))
        return xp.concatenate([*columns, *indices], axis=-1)

    def dense(self, encoded: np.ndarray, largest: int = 256) -> np.ndarray:
        """Returns encoded features with embedded ones one-hot, for models without embeddings.

        An embedded feature of more than `largest` categories is left out.
        """
        width = self.width - len(self.embeddings)
        columns = [encoded[..., :width]]
        for place, (size, _) in enumerate(self.embeddings):
            if size <= largest:
                index = encoded[..., width + place, None]
                columns.append((index == np.arange(size)).astype(encoded.dtype))
        return np.concatenate(columns, axis=-1)

    def encode_targets(self, dataset: Dataset, config: DataConfig) -> Any:
        """Returns the targets as float32, standardised, or as int32, indices of classes.

        Of a step without a target they are NaN or -1. The shapes are those of `Dataset.targets`.

        Raises:
            UserError: a class that the training part lacks.
        """
        target, theirs, targets = self.target, dataset.target, dataset.targets
        assert target is not None
        assert theirs is not None
        table = _table(theirs.classes, target.classes)

        def encode(values: np.ndarray, name: str) -> np.ndarray:
            if table is None or target.classes is None:
                return ((values - target.mean) / target.deviation).astype(np.float32)
            found = _looked_up(table, values).astype(np.int32)
            unknown = np.flatnonzero((found < 0) & ~np.isnan(values))
            if len(unknown):
                classes = theirs.classes or ()
                raise UserError(
                    f"{config.path}: {name} has the {target.name} "
                    f"{classes[int(values[unknown[0]])]}, which the training part lacks. It has "
                    f"{', '.join(target.classes[:20])}."
                )
            return found

        assert targets is not None
        if isinstance(targets, np.ndarray):
            rows = targets.reshape(-1, 1)
            return np.concatenate([*map(encode, rows, dataset.names)])
        return tuple(map(encode, targets, dataset.names))


def fit_encoding(dataset: Dataset, splits: Splits, config: DataConfig) -> Encoding:
    """Fits an encoding to the training part.

    Raises:
        UserError: no number of a target's training part, a constant one, or a single class.
    """
    spans = splits.spans["train"]
    parts = [values[begin:end] for values, (begin, end) in zip(dataset.inputs, spans, strict=True)]
    rows = np.concatenate(parts)
    features = []
    for index, feature in enumerate(dataset.features):
        column = rows[:, index]
        if feature.categories is not None:
            counts = _counts(column, len(feature.categories))
            found = tuple(
                name for name, count in zip(feature.categories, counts, strict=True) if count
            )
            features.append(
                FeatureEncoding(
                    name=feature.name, categories=found, known_ahead=feature.known_ahead
                )
            )
            continue
        mean, deviation = (0.0, 1.0)
        if config.scale != "none":
            mean, deviation = (float(value[0]) for value in mean_and_deviation(column[:, None]))
        features.append(
            FeatureEncoding(
                name=feature.name,
                known_ahead=feature.known_ahead,
                mean=mean,
                deviation=deviation,
                has_missing=bool(np.isnan(column).any()),
            )
        )
    encoding = Encoding(
        features=tuple(features),
        target=_fit_target(dataset, splits, config),
        scale=config.scale,
    )
    if config.scale != "sequence" or config.split != "time":
        return encoding
    # Without statistics of sequences yet, each is standardised by the steps that it is given.
    aligned = encoding.align(dataset)
    of_sequences = {
        name: encoding.statistics(values[begin:end], name)
        for name, values, (begin, end) in zip(dataset.names, aligned, spans, strict=True)
    }
    return encoding.model_copy(
        update={
            "of_sequences": {
                name: (tuple(mean.tolist()), tuple(deviation.tolist()))
                for name, (mean, deviation) in of_sequences.items()
            }
        }
    )


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each column of (T, F), without NaN.

    They are 0 and 1 for a column without a value. The deviation of a constant column is 1.
    """
    is_given = ~np.isnan(values)
    count = np.maximum(is_given.sum(axis=0), 1)
    mean = np.where(is_given, values, 0.0).sum(axis=0) / count
    missed = np.where(is_given, values - mean, 0.0)
    deviation = np.sqrt(np.square(missed).sum(axis=0) / count)
    is_constant = deviation <= ROUNDING * np.abs(mean)
    return mean, np.where(is_constant, 1.0, deviation)


def train_targets(dataset: Dataset, splits: Splits) -> np.ndarray:
    """Returns all targets of the training part, without steps that have none."""
    spans = splits.spans["train"]
    targets = dataset.targets
    assert targets is not None
    if isinstance(targets, np.ndarray):
        found = targets[splits.sequences("train")]
    else:
        found = np.concatenate(
            [of_steps[begin:end] for of_steps, (begin, end) in zip(targets, spans, strict=True)]
        )
    return found[~np.isnan(found)]


def _fit_target(dataset: Dataset, splits: Splits, config: DataConfig) -> TargetEncoding | None:
    if dataset.target is None:
        return None
    target, values = dataset.target, train_targets(dataset, splits)
    if not len(values):
        raise UserError(f"{config.path}: the training part has no value of {target.name}.")
    if target.classes is None:
        mean, deviation = (float(value[0]) for value in mean_and_deviation(values[:, None]))
        if np.ptp(values) == 0:
            raise UserError(
                f"{config.path}: {target.name} is {values[0]:g} everywhere in the training part: "
                "there is nothing to learn."
            )
        if config.scale == "none":
            mean, deviation = 0.0, 1.0
        return TargetEncoding(name=target.name, mean=mean, deviation=deviation)
    counts = _counts(values, len(target.classes))
    found = tuple(name for name, count in zip(target.classes, counts, strict=True) if count)
    if len(found) == 1:
        raise UserError(
            f"{config.path}: {target.name} is {found[0]} everywhere in the training part: there "
            "should be two classes or more."
        )
    return TargetEncoding(name=target.name, classes=found)


def _counts(indices: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(indices[~np.isnan(indices)].astype(int), minlength=size)


def _table(theirs: tuple[str, ...] | None, ours: tuple[str, ...] | None) -> np.ndarray | None:
    """Returns the index in `ours` of each of `theirs`, -1 if absent; the last is of NaN."""
    if ours is None:
        return None
    index = {name: place for place, name in enumerate(ours)}
    return np.array([*(index.get(name, -1) for name in theirs or ()), -1])


def _looked_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return table[np.where(np.isnan(indices), len(table) - 1, indices).astype(int)].astype(float)


def _as_rank(array: Any, like: Any) -> Any:
    """Returns an array with leading axes of size 1, of the dtype and as many axes as another."""
    array = array.reshape((1,) * (like.ndim - array.ndim) + array.shape)
    return array.astype(like.dtype)
