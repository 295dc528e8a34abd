"""An encoding is fitted to the training part, and computed alike in NumPy, JAX and ONNX."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.dataset import Dataset, Feature, Target
from experiments.own_data.encoding import Encoding, fit_encoding
from experiments.own_data.serving import RawUnits
from experiments.own_data.splits import split_dataset
from tests.experiments.own_data.own_sequences import SHOPS, sequences, with_shop


def fitted(dataset, **values):
    config = DataConfig(path="x", **values)
    return fit_encoding(dataset, split_dataset(dataset, config), config)


@pytest.mark.parametrize("split", ["sequence", "time"])
@pytest.mark.parametrize("scale", ["all", "sequence", "none"])
@pytest.mark.parametrize("of_steps", [False, True])
def test_validation_and_test_change_nothing(split, scale, of_steps):
    dataset = sequences(of_steps=of_steps)
    config = DataConfig(path="x", split=split, scale=scale)
    splits = split_dataset(dataset, config)
    before = fit_encoding(dataset, splits, config)
    inputs = [values.copy() for values in dataset.inputs]
    targets = [np.array(value) for value in dataset.targets]
    for index, values in enumerate(inputs):
        begin, end = splits.spans["train"][index]
        outside = np.ones(len(values), bool)
        outside[begin:end] = False
        values[outside] += 1e6
        if of_steps:
            targets[index][outside] = np.nan
    changed = dataclasses.replace(
        dataset,
        features=(Feature("level"), Feature("colour", None)),
        inputs=tuple(inputs),
        targets=tuple(targets) if of_steps else dataset.targets,
    )
    after = fit_encoding(changed, splits, config)
    assert before.target == after.target
    assert before.features[0] == after.features[0]
    for name, values in before.of_sequences.items():
        assert np.array(values)[:, 0].tolist() == np.array(after.of_sequences[name])[:, 0].tolist()


def test_numbers_of_the_training_part_have_mean_0_and_deviation_1():
    dataset = sequences()
    config = DataConfig(path="x")
    splits = split_dataset(dataset, config)
    encoding = fit_encoding(dataset, splits, config)
    encoded = encoding.encode(dataset)
    train = np.concatenate([encoded[i] for i in splits.sequences("train")])
    raw = np.concatenate([dataset.inputs[i][:, 0] for i in splits.sequences("train")])
    given = train[~np.isnan(raw), 0].astype(float)
    np.testing.assert_allclose([given.mean(), given.std()], [0, 1], atol=1e-5)


def test_missing_numbers_are_0_with_an_indicator_and_unknown_categories_0():
    dataset = sequences()
    encoding = fitted(dataset)
    new = Dataset(
        features=(Feature("colour", ("pink", "green")), Feature("level")),
        names=("new",),
        inputs=(np.array([[0, 50.0], [1, np.nan], [np.nan, 60.0]]),),
    )
    (encoded,) = encoding.encode(new)
    assert encoded[:, 1].tolist() == [0, 1, 0]
    assert encoded[1, 0] == 0
    # Blue, green and red; pink is unknown.
    assert encoded[:, 2:].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_constant_features_have_deviation_1():
    dataset = sequences()
    constant = tuple(np.full_like(values, 0.1) for values in dataset.inputs)
    dataset = dataclasses.replace(dataset, inputs=constant, features=(Feature("a"), Feature("b")))
    encoding = fitted(dataset)
    assert [feature.deviation for feature in encoding.features] == [1, 1]
    assert np.abs(np.concatenate(encoding.encode(dataset))).max() < 1e-6


def test_sequences_standardised_by_their_own_training_part():
    dataset = sequences(10)
    encoding = fitted(dataset, split="time", scale="sequence")
    splits = split_dataset(dataset, DataConfig(path="x", split="time"))
    for values, encoded, (begin, end) in zip(
        dataset.inputs, encoding.encode(dataset), splits.spans["train"], strict=True
    ):
        given = ~np.isnan(values[begin:end, 0])
        train = encoded[begin:end, 0][given].astype(float)
        np.testing.assert_allclose(train.mean(), 0, atol=1e-5)
        if len(train) > 1:
            np.testing.assert_allclose(train.std(), 1, atol=1e-5)


@pytest.mark.parametrize("scale", ["all", "sequence", "none"])
def test_json_keeps_everything(scale):
    dataset = with_shop(sequences())
    encoding = fitted(dataset, split="time", scale=scale)
    stored = json.loads(json.dumps(encoding.to_json(), allow_nan=False))
    again = Encoding.from_json(stored, "data.json")
    assert again == encoding
    for one, other in zip(encoding.encode(dataset), again.encode(dataset), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_corrupted_encoding_is_an_error():
    with pytest.raises(UserError, match=r"run/data\.json is corrupted: encoding\.features"):
        Encoding.from_json({"features": 3}, "run/data.json")


@pytest.mark.parametrize("scale", ["all", "sequence", "none"])
def test_jax_and_onnx_encode_as_numpy_does(scale):
    onnxruntime = pytest.importorskip("onnxruntime")
    from gru_jax.interop.onnx.writer import Writer

    dataset = with_shop(sequences())
    encoding = fitted(dataset, scale=scale)
    pre_post = RawUnits(encoding)
    writer = Writer("float32")
    encoded = pre_post.onnx_before(writer, writer.input("inputs", ["batch", "time", 3]))
    writer.output("encoded", encoded, ["batch", "time", encoding.width])
    session = onnxruntime.InferenceSession(writer.finish(None, {}).SerializeToString())
    inputs = np.full((len(dataset.names), 12, 3), np.nan, np.float32)
    for row, raw in zip(inputs, encoding.align(dataset), strict=True):
        row[: len(raw)] = raw
    in_jax = np.asarray(jax.jit(pre_post.before)(jnp.asarray(inputs)))
    (in_onnx,) = session.run(None, {"inputs": inputs})
    for place, expected in enumerate(encoding.encode(dataset)):
        for actual in (in_jax[place], in_onnx[place]):
            np.testing.assert_allclose(actual[: len(expected)], expected, rtol=0, atol=2e-5)


def test_models_without_embeddings_get_one_hot_features():
    dataset = with_shop(sequences())
    encoding = fitted(dataset)
    (first, *_) = encoding.encode(dataset)
    dense = encoding.dense(first)
    assert dense.shape[1] == encoding.width - 1 + len(SHOPS)
    assert (dense[:, -len(SHOPS) :].sum(axis=1) == 1).all()
    assert encoding.dense(first, largest=4).shape[1] == encoding.width - 1


def test_targets_are_standardised_or_counted():
    dataset = sequences(classes=False)
    encoding = fitted(dataset)
    targets = encoding.encode_targets(dataset, DataConfig(path="x"))
    np.testing.assert_allclose(
        targets * encoding.target.deviation + encoding.target.mean, dataset.targets, rtol=1e-5
    )
    dataset = sequences(of_steps=True)
    missing = tuple(np.where(np.arange(len(t)) == 1, np.nan, t) for t in dataset.targets)
    dataset = dataclasses.replace(dataset, targets=missing)
    for of_steps in fitted(dataset).encode_targets(dataset, DataConfig(path="x")):
        expected = np.where(np.arange(len(of_steps)) == 1, -1, np.arange(len(of_steps)) % 2)
        assert of_steps.tolist() == expected.tolist()


def replaced(**values):
    return dataclasses.replace(sequences(), **values)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (replaced(targets=np.zeros(40)), "kind is cat everywhere"),
        (replaced(targets=np.full(40, 7.0), target=Target("age")), "age is 7 everywhere"),
        (replaced(targets=np.full(40, np.nan), target=Target("age")), "no value of age"),
    ],
)
def test_targets_that_cannot_be_learned_are_errors(dataset, message):
    with pytest.raises(UserError, match=message):
        fitted(dataset)


def test_a_class_outside_the_training_part_is_an_error():
    split = ("train",) * 36 + ("validation", "test") * 2
    targets = np.array([0, 1] * 18 + [2, 0, 1, 0], float)
    dataset = replaced(targets=targets, target=Target("kind", ("a", "b", "c")), split=split)
    encoding = fitted(dataset, split="file")
    with pytest.raises(UserError, match="series 36 has the kind c, which the training part lacks"):
        encoding.encode_targets(dataset, DataConfig(path="x"))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ((Feature("height"), Feature("colour", ("red",))), "There is no feature level"),
        ((Feature("level", ("high",)), Feature("colour", ("red",))), "level has categories"),
        ((Feature("level"), Feature("colour")), "colour has numbers"),
    ],
)
def test_other_features_are_errors(features, message):
    new = Dataset(features=features, names=("new",), inputs=(np.zeros((2, 2)),))
    with pytest.raises(UserError, match=message):
        fitted(sequences()).encode(new)
