"""Properties of the translation task, on an artificial language of reversed sentences."""

import gzip
import hashlib
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import main
from experiments.config import ModelConfig
from experiments.datasets import registry
from experiments.datasets.multi30k import (
    BEGIN,
    END,
    LANGUAGES,
    PAD,
    pad,
    read_multi30k,
    train_tokenizer,
)
from experiments.errors import UserError
from experiments.models.translator import build_translator, smoothed_cross_entropy
from experiments.runs.config_loading import check
from experiments.tasks import translation
from tests.slow import slow

WORDS = ("un", "deux", "trois", "quatre", "cinq")
TINY = {
    "task": "translation",
    "pieces": 30,
    "longest": 12,
    "length_classes": 2,
    "beams": 2,
    "model": {"hidden_size": 8, "dropout": 0.1},
    "training": {"steps": 4, "batch_size": 8, "eval_every": 2, "log_every": 2},
}


def sentences(number, seed):
    random = np.random.default_rng(seed)
    return [list(random.choice(WORDS, random.integers(2, 5))) for _ in range(number)]


def publish(directory, monkeypatch, change=lambda split, language, lines: lines):
    """Replaces Multi30k by a small artificial corpus in `directory`."""
    (directory / "multi30k").mkdir()
    files = {}
    for seed, (split, number) in enumerate([("train", 60), ("validation", 5), ("test", 5)]):
        pairs = [(" ".join(words), " ".join(words[::-1])) for words in sentences(number, seed)]
        for language, lines in zip(LANGUAGES, zip(*pairs, strict=True), strict=True):
            text = "\n".join(change(split, language, list(lines))) + "\n"
            content = gzip.compress(text.encode())
            name = f"multi30k/{split}.{language}.gz"
            (directory / name).write_bytes(content)
            sha256 = hashlib.sha256(content).hexdigest()
            files[split, language] = registry.DataFile("multi30k", name, "", len(content), sha256)
    monkeypatch.setattr(registry, "MULTI30K", files)
    read_multi30k.cache_clear()
    return directory


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    return read_multi30k(publish(tmp_path, monkeypatch), 30)


@pytest.fixture(scope="module")
def logits():
    """(source, lengths, decoder inputs) -> logits and attention."""
    translator = build_translator(ModelConfig(hidden_size=8), 10, 12, seed=0)
    return partial(jax.jit(translator.logits), translator.params)


SOURCE = np.array([[4, 5, 6, 7, 8], [9, 4, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 2], np.int32)
INPUTS = np.array([[BEGIN, 4, 5], [BEGIN, 6, 7]], np.int32)


def test_padding_of_the_source_changes_nothing(logits):
    expected, attention = logits(SOURCE, LENGTHS, INPUTS)
    longer = np.pad(SOURCE, ((0, 0), (0, 3)), constant_values=5)
    padded, with_padding = logits(longer, LENGTHS, INPUTS)
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    np.testing.assert_allclose(with_padding[:, :, :5], attention, atol=1e-6)
    np.testing.assert_allclose(with_padding.sum(axis=-1), 1, atol=1e-6)
    assert not with_padding[0, :, 5:].any()
    assert not with_padding[1, :, 2:].any()


def test_wide_networks_tell_positions_apart_too():
    """Scores of width H are sums of H products; divided by a root of H, they would vanish twice."""
    random = np.random.default_rng(0)
    source, inputs = random.integers(4, 40, (2, 16, 12), np.int32)

    def spread(width):
        translator = build_translator(ModelConfig(hidden_size=width), 40, 40, seed=0)
        lengths = np.full(16, 12, np.int32)
        _, attention = jax.jit(translator.logits)(translator.params, source, lengths, inputs)
        return np.log(attention).std(axis=-1).mean()

    assert spread(64) > 0.4 * spread(16)


def test_logits_do_not_depend_on_later_symbols(logits):
    expected, _ = logits(SOURCE, LENGTHS, INPUTS)
    other = INPUTS.copy()
    other[:, -1] = 11
    changed, _ = logits(SOURCE, LENGTHS, other)
    np.testing.assert_array_equal(changed[:, :-1], expected[:, :-1])
    assert (changed[:, -1] != expected[:, -1]).any()


@pytest.mark.parametrize("cell", ["gru", slow("lstm")])
def test_the_log_probability_of_a_translation_is_that_of_teacher_forcing(cell):
    # Large weights, so that some translations end early.
    translator = build_translator(ModelConfig(cell=cell, hidden_size=8), 10, 6, seed=0)
    params = jax.tree.map(lambda leaf: 3 * leaf, translator.params)
    search = partial(translator.translate, beams=3, longest=6, begin=BEGIN, end=END)
    beam, logits = jax.jit(search)(params, SOURCE, LENGTHS), jax.jit(translator.logits)
    for index in range(2):
        for hypothesis in range(3):
            length = int(beam.lengths[index, hypothesis])
            symbols = beam.symbols[index, hypothesis][:length]
            inputs = np.full((1, 7), PAD, np.int32)
            inputs[0, : length + 1] = [BEGIN, *symbols]
            following, _ = logits(params, SOURCE[index : index + 1], LENGTHS[[index]], inputs)
            each = np.asarray(jax.nn.log_softmax(following[0]))
            # The longest has no end symbol.
            labels = [*map(int, symbols), END][:6]
            total = sum(float(each[position, symbol]) for position, symbol in enumerate(labels))
            np.testing.assert_allclose(beam.log_probability[index, hypothesis], total, rtol=1e-4)


def test_label_smoothing_is_cross_entropy_with_the_smoothed_target():
    logits = jax.random.normal(jax.random.key(0), (3, 5))
    labels = jnp.array([0, 4, 2])
    target = 0.9 * jax.nn.one_hot(labels, 5) + 0.1 / 5
    expected = -(target * jax.nn.log_softmax(logits)).sum(axis=-1)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, labels, 0.1), expected, rtol=1e-5)


def test_decoding_inverts_encoding():
    lines = [" ".join(words) for words in sentences(50, 0)]
    pieces = train_tokenizer(lines, 30)
    assert pieces.decode(pieces.encode(lines)) == lines
    assert max(map(max, pieces.encode(lines))) < 30
    # Training is deterministic.
    assert train_tokenizer(lines, 30).encode(lines) == pieces.encode(lines)


def test_padded_pairs_have_their_lengths():
    pairs = pad([[4, 5], [6]], [[7], [8, 9]])
    np.testing.assert_array_equal(pairs.source, [[4, 5], [6, 0]])
    np.testing.assert_array_equal(pairs.target, [[BEGIN, 7, END, 0], [BEGIN, 8, 9, END]])
    np.testing.assert_array_equal(pairs.source_lengths, [2, 1])
    np.testing.assert_array_equal(pairs.target_lengths, [2, 3])


def test_batches_differ_by_seed_but_not_in_shape(corpus):
    configs = [check(translation.Config, {**TINY, "seed": seed}, where="") for seed in (0, 1)]
    one, other = (translation.BucketedBatches(corpus, config) for config in configs)
    again = translation.BucketedBatches(corpus, configs[0])
    differ = False
    for step in range(4):
        jax.tree.map(np.testing.assert_array_equal, one(step), again(step))
        assert jax.tree.map(np.shape, one(step)) == jax.tree.map(np.shape, other(step))
        differ |= not np.array_equal(one(step).source, other(step).source)
    assert differ
    widths = [one(step).source.shape[1] for step in range(2)]
    assert sorted(widths) == [pairs.source.shape[1] for pairs in one.buckets]


def test_the_loss_ignores_padding(tmp_path, monkeypatch):
    task = translation.build(
        check(translation.Config, TINY, where=""), publish(tmp_path, monkeypatch)
    )
    batch = task.batch_at(0)
    wider = batch._replace(target=np.pad(batch.target, ((0, 0), (0, 2)), constant_values=9))
    expected, _ = task.loss(task.params, batch, None)
    np.testing.assert_allclose(task.loss(task.params, wider, None)[0], expected, rtol=1e-5)


def test_baselines():
    lines = [f"{word} {other}" for word, other in itertools.combinations(WORDS, 2)]
    texts = {"de": lines, "en": [f"{line} one two three" for line in lines]}
    found = translation.baselines({"train": texts, "test": texts})
    # A training sentence is its own nearest neighbour.
    assert np.isclose(found["translation of the nearest training sentence"]["bleu"], 100)
    assert found["the German sentence"]["bleu"] < 50


@pytest.mark.slow
def test_training_writes_translations_and_a_plot(
    write_config, workplace, tmp_path_factory, monkeypatch, capsys
):
    directory = publish(tmp_path_factory.mktemp("data"), monkeypatch)
    path = write_config({**TINY, "length_classes": 1})
    assert main(["train", str(path), "--run-dir", "run", "--data-dir", str(directory)]) == 0
    assert "bleu" in capsys.readouterr().out
    text = (workplace / "run" / "plots" / "translations.txt").read_text()
    assert text.count("ours") == 5
    assert (workplace / "run" / "plots" / "attention.png").exists()


def test_numbers_of_sentences_that_differ_are_named(tmp_path, monkeypatch):
    def shorten(split, language, lines):
        return lines[:-1] if (split, language) == ("validation", "en") else lines

    with pytest.raises(UserError, match=r"validation: .*'de': 5, 'en': 4"):
        read_multi30k(publish(tmp_path, monkeypatch, shorten), 30)


def test_a_file_that_is_not_an_archive_is_named(tmp_path, monkeypatch):
    publish(tmp_path, monkeypatch)
    file = registry.MULTI30K["train", "de"]
    (tmp_path / file.filename).write_bytes(b"Zwei junge Hunde")
    with pytest.raises(UserError, match="not the published file"):
        read_multi30k(tmp_path, 30)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pieces": 5000}, "pieces is 5000, which is too many"),
        ({"longest": 1}, "longest is 1, but only"),
        ({"model": {"bidirectional": True}}, "model.bidirectional is True, but should be False"),
    ],
)
def test_invalid_configs_are_rejected(
    changed, message, write_config, user_error, tmp_path_factory, monkeypatch
):
    directory = publish(tmp_path_factory.mktemp("data"), monkeypatch)
    assert message in user_error(
        "train", write_config({**TINY, **changed}), "--data-dir", directory
    )
