"""What all problems obey: padding, order, leaks, and programs that compute what `predict` does."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.errors import UserError
from experiments.export_formats import to_onnx, to_stablehlo
from experiments.own_data.config import SequencesConfig
from experiments.own_data.problems import load_problem
from experiments.own_data.splits import split_dataset
from experiments.runs.config_loading import check
from gru_jax import export
from tests.experiments.own_data.own_sequences import reordered, sequences, texts, with_shop

TINY = {"model": {"hidden_size": 4}, "training": {"steps": 5, "batch_size": 4}}
SUPERVISED = {
    "classification": with_shop(sequences()),
    "regression": with_shop(sequences(classes=False)),
    "labelling": with_shop(sequences(of_steps=True)),
    "labelling of numbers": sequences(of_steps=True, classes=False),
}
CASES = {**SUPERVISED, "next-token": texts(), "next-token of ids": texts(ids=True)}


def config_of(case, **data):
    problem = case.split(" of ")[0]
    values = {"task": "sequences", "problem": problem, "data": {"path": "x", **data}, "window": 10}
    return check(SequencesConfig, {**values, **TINY}, where="test")


def build(case, dataset, **data):
    config = config_of(case, **data)
    return load_problem(config.problem).build(config, dataset)


def restore(case, task, **data):
    config = config_of(case, **data)
    return load_problem(config.problem).restore(config, task.data.values, "data.json")


def assert_same_task(task, other):
    jax.tree.map(np.testing.assert_array_equal, task.params, other.params)
    for step in range(5):
        jax.tree.map(np.testing.assert_array_equal, task.batch_at(step), other.batch_at(step))
    assert task.data.values == other.data.values


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_files_does_not_matter(case):
    dataset = CASES[case]
    order = np.random.default_rng(0).permutation(len(dataset.names))
    task, other = build(case, dataset), build(case, reordered(dataset, order))
    assert_same_task(task, other)
    assert task.evaluate(task.params, "test") == other.evaluate(task.params, "test")


@pytest.mark.parametrize("split", ["sequence", "time"])
@pytest.mark.parametrize("case", CASES)
def test_validation_and_test_change_no_training_batch(case, split):
    if case in ("classification", "regression") and split == "time":
        pytest.skip("a target of a whole sequence has no time")
    dataset = CASES[case]
    config = config_of(case, split=split)
    splits = split_dataset(dataset, config.data)
    inputs, targets = [values.copy() for values in dataset.inputs], dataset.targets
    for values, (begin, end) in zip(inputs, splits.spans["train"], strict=True):
        outside = np.ones(len(values), bool)
        outside[begin:end] = False
        # Values that occur elsewhere, but in another order.
        values[outside] = values[outside][::-1]
        if len(dataset.features) > 1:
            values[outside, 0] *= 3
    if dataset.target is not None and dataset.target.classes is None:
        train = np.isin(np.arange(len(inputs)), splits.sequences("train"))
        if isinstance(targets, np.ndarray):
            targets = np.where(train, targets, targets + 7)
        elif split == "sequence":
            pairs = zip(targets, train, strict=True)
            targets = tuple(of if inside else of + 7 for of, inside in pairs)
    changed = dataclasses.replace(dataset, inputs=tuple(inputs), targets=targets)
    assert_same_task(build(case, dataset, split=split), build(case, changed, split=split))


@pytest.mark.parametrize("case", SUPERVISED)
def test_padding_changes_nothing(case):
    dataset = SUPERVISED[case]
    task = build(case, dataset)
    model = restore(case, task)
    together = model.predict(task.params, dataset)
    for index in (0, 3):
        alone = model.predict(task.params, reordered(dataset, np.array([index])))
        for name, values in together.columns.items():
            assert len(values[index]) == (
                len(dataset.inputs[index]) if together.rows == "step" else 1
            )
            if values[index].dtype == object:
                assert (values[index] == alone.columns[name][0]).all()
            else:
                np.testing.assert_allclose(values[index], alone.columns[name][0], atol=1e-6)


@pytest.mark.parametrize("case", SUPERVISED)
def test_metrics_are_of_the_predictions(case):
    dataset = SUPERVISED[case]
    task = build(case, dataset)
    predictions = restore(case, task).predict(task.params, dataset)
    chosen = split_dataset(dataset, config_of(case).data).sequences("test")
    predicted = predictions.columns[dataset.target.name]
    targets = [np.atleast_1d(dataset.targets[i]) for i in chosen]
    every, truth = np.concatenate([predicted[i] for i in chosen]), np.concatenate(targets)
    metrics = task.evaluate(task.params, "test")
    if dataset.target.classes is None:
        np.testing.assert_allclose(metrics["mae"], np.abs(every - truth).mean(), rtol=1e-5)
    else:
        names = np.array(dataset.target.classes)[truth.astype(int)]
        np.testing.assert_allclose(metrics["accuracy"], np.mean(every == names), rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "scale"),
    [
        ("classification", "all"),
        *(
            pytest.param(case, scale, marks=pytest.mark.slow)
            for case in SUPERVISED
            for scale in ("all", "sequence")
            if (case, scale) != ("classification", "all")
        ),
    ],
)
def test_exported_programs_compute_what_predict_does(case, scale):
    onnxruntime = pytest.importorskip("onnxruntime")
    dataset = SUPERVISED[case]
    task = build(case, dataset, scale=scale)
    model = restore(case, task, scale=scale)
    predictions = model.predict(task.params, dataset)
    # Whoever serves a program knows names and indices of categories from its metadata.
    features = task.data.values["encoding"]["features"]
    assert [feature["name"] for feature in features] == [f.name for f in dataset.features]
    lengths = np.array([len(values) for values in dataset.inputs], np.int32)
    inputs = np.full((len(lengths), lengths.max(), len(features)), np.nan, np.float32)
    for row, values in zip(inputs, dataset.inputs, strict=True):
        row[: len(values)] = values
    config = config_of(case, scale=scale)
    programs = to_stablehlo(config, model.export_spec, task.params)
    assert ("step.zip" in programs) == ("labelling" in case and scale == "all")
    program = export.load(programs["model.zip"])
    in_jax = program.call(inputs, lengths)
    onnx = to_onnx(config, model.export_spec, task.params)["model.onnx"]
    session = onnxruntime.InferenceSession(onnx)
    (in_onnx,) = session.run(["outputs"], {"inputs": inputs, "lengths": lengths})
    columns = [of for name, of in predictions.columns.items() if of[0].dtype != object]
    for outputs in (np.asarray(in_jax), in_onnx):
        for index, length in enumerate(lengths):
            expected = np.stack([of[index] for of in columns], axis=-1)
            actual = outputs[index]
            if predictions.rows == "step":
                actual = actual[:length]
            scale_of = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(
                actual.reshape(expected.shape), expected, rtol=0, atol=2e-5 * scale_of
            )


@pytest.mark.parametrize(
    "case", ["next-token", pytest.param("next-token of ids", marks=pytest.mark.slow)]
)
def test_exported_programs_predict_the_next_token(case):
    onnxruntime = pytest.importorskip("onnxruntime")
    task = build(case, CASES[case])
    model = restore(case, task)
    dataset = texts(2, 30, ids=case.endswith("ids"), seed=5)
    bits = model.predict(task.params, dataset).columns["bits"]
    tokens = np.stack([values[:, 0] for values in dataset.inputs]).astype(np.int32)
    config = config_of(case)
    program = export.load(to_stablehlo(config, model.export_spec, task.params)["model.zip"])
    onnx = to_onnx(config, model.export_spec, task.params)["model.onnx"]
    session = onnxruntime.InferenceSession(onnx)
    for logits in (program.call(tokens), session.run(["outputs"], {"inputs": tokens})[0]):
        logs = np.asarray(jax.nn.log_softmax(np.asarray(logits)))
        for row in range(2):
            of_targets = logs[row, np.arange(29), tokens[row, 1:]]
            np.testing.assert_allclose(-of_targets / np.log(2), bits[row][1:], atol=1e-5)


def test_bits_are_the_metric():
    task = build("next-token", CASES["next-token"])
    config, dataset = config_of("next-token"), CASES["next-token"]
    chosen = split_dataset(dataset, config.data).sequences("test")
    bits = restore("next-token", task).predict(task.params, dataset).columns["bits"]
    expected = np.concatenate([bits[i][1:] for i in chosen]).mean()
    metrics = task.evaluate(task.params, "test")
    np.testing.assert_allclose(metrics["bits_per_character"], expected, rtol=1e-5)


def test_unknown_characters_are_of_their_own_class():
    task = build("next-token", CASES["next-token"])
    model = restore("next-token", task)
    dataset = CASES["next-token"]
    characters = (*dataset.features[0].categories, "é")
    feature = dataclasses.replace(dataset.features[0], categories=characters)
    inputs = (np.array([[0.0], [8.0], [1.0]]),)
    new = dataclasses.replace(dataset, features=(feature,), names=("new",), inputs=inputs)
    predictions = model.predict(task.params, new)
    assert predictions.columns["character"][0].tolist() == ["a", "unknown", "b"]
    assert np.isfinite(predictions.columns["bits"][0][1:]).all()


@pytest.mark.slow
def test_pieces_of_words():
    pytest.importorskip("sentencepiece")
    words = np.random.default_rng(0).choice(["ab", "cde", "fgh", " "], size=(12, 100))
    characters = tuple(" abcdefgh")
    dataset = dataclasses.replace(
        texts(),
        features=(dataclasses.replace(texts().features[0], categories=characters),),
        inputs=tuple(
            np.array([[characters.index(each)] for each in "".join(line)], float) for line in words
        ),
    )
    config = config_of("next-token").model_copy(update={"vocabulary": 20})
    problem = load_problem("next-token")
    task = problem.build(config, dataset)
    model = problem.restore(config, task.data.values, "data.json")
    predictions = model.predict(task.params, dataset)
    pieces = "".join(predictions.columns["piece"][0]).replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
    assert pieces.split() == "".join(words[0]).split()
    with pytest.raises(UserError, match="x: vocabulary is 400, which is too many"):
        problem.build(config.model_copy(update={"vocabulary": 400}), dataset)


@pytest.mark.parametrize("case", CASES)
def test_baselines_have_the_metrics_of_the_model(case):
    task = build(case, CASES[case])
    found = task.evaluate_baselines()
    assert len(found) == 2
    for metrics in found.values():
        assert set(metrics) == set(task.metric_labels)
        assert np.isfinite(list(metrics.values())).all()
    assert task.loss_metric in task.metric_labels
    assert task.monitor in task.metric_labels


@pytest.mark.parametrize("case", CASES)
def test_what_was_decided_is_said_in_a_few_sentences(case):
    sentences = build(case, CASES[case]).data.sentences
    assert 3 <= len(sentences) <= 7
    assert all(sentence.endswith(".") for sentence in sentences)


def without_target(dataset):
    return dataclasses.replace(dataset, target=None, targets=None)


CLASSES, NUMBERS = SUPERVISED["classification"], SUPERVISED["regression"]


@pytest.mark.parametrize(
    ("case", "dataset", "data", "message"),
    [
        ("classification", without_target(CLASSES), {}, "has no target for classification"),
        ("classification", NUMBERS, {}, "kind has numbers. Use regression"),
        ("regression", CLASSES, {}, "has the classes cat, dog. Use classification"),
        ("labelling", CLASSES, {}, "has targets of whole sequences"),
        ("classification", SUPERVISED["labelling"], {}, "has targets of each step"),
        ("classification", CLASSES, {"split": "time"}, "cannot be divided: use sequence"),
        ("next-token", CLASSES, {}, "has 3 features"),
        ("next-token", sequences(), {}, "has 2 features"),
    ],
)
def test_data_that_do_not_fit_a_problem_are_errors(case, dataset, data, message):
    with pytest.raises(UserError, match=message):
        build(case, dataset, **data)


def test_sequences_without_steps_are_errors():
    empty = dataclasses.replace(CLASSES, inputs=(np.zeros((0, 3)), *CLASSES.inputs[1:]))
    with pytest.raises(UserError, match="series 0 has no steps"):
        build("classification", empty)


def test_infinite_numbers_are_errors():
    inputs = (np.full((4, 3), np.inf), *CLASSES.inputs[1:])
    with pytest.raises(UserError, match="series 0 has infinite numbers"):
        build("classification", dataclasses.replace(CLASSES, inputs=inputs))


def test_texts_too_short_for_a_batch_are_errors():
    with pytest.raises(UserError, match="too few for a window in each sequence of a batch"):
        build("next-token", texts(3, 20))


def test_a_corrupted_record_is_an_error():
    config = config_of("classification")
    with pytest.raises(UserError, match=r"data\.json is corrupted"):
        load_problem("classification").restore(config, {}, "data.json")
