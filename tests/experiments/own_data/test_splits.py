"""Splits depend on names, lengths and classes only, and no part is empty."""

import dataclasses

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.splits import PARTS, assign, split_dataset
from tests.experiments.own_data.own_sequences import reordered, sequences


def members(dataset, config):
    splits = split_dataset(dataset, config)
    return {part: {dataset.names[i] for i in splits.sequences(part)} for part in PARTS}


def test_parts_of_sequences_are_disjoint_and_complete():
    dataset = sequences()
    found = members(dataset, DataConfig(path="x"))
    assert sum(map(len, found.values())) == len(dataset.names)
    assert set().union(*found.values()) == set(dataset.names)


def test_each_part_has_the_same_frequencies_of_classes():
    dataset = sequences(200)
    splits = split_dataset(dataset, DataConfig(path="x"))
    assert {part: dataset.targets[splits.sequences(part)].mean() for part in PARTS} == {
        part: 0.5 for part in PARTS
    }


def test_the_order_of_the_sequences_does_not_matter():
    dataset = sequences()
    order = np.random.default_rng(1).permutation(len(dataset.names))
    other = reordered(dataset, order)
    config = DataConfig(path="x")
    assert members(dataset, config) == members(other, config)


def test_a_new_sequence_moves_two_others_at_most():
    names = [f"recording {index}" for index in range(100)]
    before = assign(names, None, 0.15, 0.15)
    for new in ("another", "one more", "recording 100", "a"):
        after = assign([*names, new], None, 0.15, 0.15)
        assert np.sum(before != after[:-1]) <= 2


def test_every_part_has_a_sequence_of_each_class_with_three():
    parts = assign(list("abcdefgh"), [0, 0, 0, 1, 1, 1, 2, 2], 0.1, 0.1)
    for name in range(2):
        assert set(parts[3 * name : 3 * name + 3]) == set(PARTS)
    assert set(parts[6:]) == {"train"}


def test_time_divides_each_sequence():
    dataset = sequences()
    splits = split_dataset(dataset, DataConfig(path="x", split="time", validation=0.2, test=0.3))
    for index, values in enumerate(dataset.inputs):
        spans = [splits.spans[part][index] for part in PARTS]
        assert spans[0][0] == 0
        assert spans[0][1] == spans[1][0]
        assert spans[1][1] == spans[2][0]
        assert spans[2][1] == len(values)
        assert spans[2][1] - spans[2][0] == len(values) - round(len(values) * 0.7)


def test_files_say_what_is_for_the_test():
    dataset = sequences()
    split = ("train",) * 30 + ("test",) * 10
    dataset = dataclasses.replace(dataset, split=split)
    found = members(dataset, DataConfig(path="x", split="file"))
    assert found["test"] == set(dataset.names[30:])
    assert 3 <= len(found["validation"]) <= 5


@pytest.mark.parametrize(
    ("number", "values", "message"),
    [
        (2, {"split": "sequence"}, "validation and test would have no sequences"),
        (1, {"split": "time", "validation": 0.01, "test": 0.01}, "would have no steps"),
        (9, {"split": "time", "validation": 0.5, "test": 0.5}, "train would have no steps"),
        (9, {"split": "file"}, "does not say which"),
    ],
)
def test_empty_parts_are_errors(number, values, message):
    with pytest.raises(UserError, match=message):
        split_dataset(sequences(number, classes=False), DataConfig(path="x", **values))
