"""Laws of the translation task, on a language of our own: ours is yours with the words reversed."""

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
from experiments.datasets import registry as data
from experiments.datasets.multi30k import (
    BEGIN,
    END,
    LANGUAGES,
    PAD,
    find_pieces,
    pad,
    read_multi30k,
)
from experiments.errors import UserError
from experiments.models.translator import build_translator, smoothed_cross_entropy
from experiments.runs.config_loading import check
from experiments.tasks import translation

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
    """Has Multi30k be a small corpus of ours, in `directory`."""
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
            files[split, language] = data.DataFile("multi30k", name, "", len(content), sha256)
    monkeypatch.setattr(data, "MULTI30K", files)
    read_multi30k.cache_clear()
    return directory


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    return read_multi30k(publish(tmp_path, monkeypatch), 30)


@pytest.fixture(scope="module")
def logits():
    """Source, lengths and what was read to logits and attention."""
    translator = build_translator(ModelConfig(hidden_size=8), 10, 12, seed=0)
    return partial(jax.jit(translator.logits), translator.params)


SOURCE = np.array([[4, 5, 6, 7, 8], [9, 4, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 2], np.int32)
READ = np.array([[BEGIN, 4, 5], [BEGIN, 6, 7]], np.int32)


def test_padding_of_the_source_changes_nothing(logits):
    expected, attention = logits(SOURCE, LENGTHS, READ)
    longer = np.pad(SOURCE, ((0, 0), (0, 3)), constant_values=5)
    padded, with_padding = logits(longer, LENGTHS, READ)
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    np.testing.assert_allclose(with_padding[:, :, :5], attention, atol=1e-6)
    np.testing.assert_allclose(with_padding.sum(axis=-1), 1, atol=1e-6)
    assert not with_padding[0, :, 5:].any()
    assert not with_padding[1, :, 2:].any()


def test_what_follows_depends_on_nothing_that_comes_later(logits):
    expected, _ = logits(SOURCE, LENGTHS, READ)
    other = READ.copy()
    other[:, -1] = 11
    changed, _ = logits(SOURCE, LENGTHS, other)
    np.testing.assert_array_equal(changed[:, :-1], expected[:, :-1])
    assert (changed[:, -1] != expected[:, -1]).any()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_translation_is_as_likely_as_the_network_says_when_it_reads_it(cell):
    # Large weights, so that some translations end before the longest.
    drawn = build_translator(ModelConfig(cell=cell, hidden_size=8), 10, 6, seed=0)
    params = jax.tree.map(lambda leaf: 3 * leaf, drawn.params)
    search = partial(drawn.translate, beams=3, longest=6, begin=BEGIN, end=END)
    found, logits = jax.jit(search)(params, SOURCE, LENGTHS), jax.jit(drawn.logits)
    for index in range(2):
        for hypothesis in range(3):
            length = int(found.lengths[index, hypothesis])
            said = found.symbols[index, hypothesis][:length]
            read = np.full((1, 7), PAD, np.int32)
            read[0, : length + 1] = [BEGIN, *said]
            following, _ = logits(params, SOURCE[index : index + 1], LENGTHS[[index]], read)
            each = np.asarray(jax.nn.log_softmax(following[0]))
            # The longest has no end symbol.
            right = [*map(int, said), END][:6]
            total = sum(float(each[place, symbol]) for place, symbol in enumerate(right))
            np.testing.assert_allclose(found.log_probability[index, hypothesis], total, rtol=1e-4)


def test_smoothing_is_the_mean_over_targets_so_distributed():
    logits = jax.random.normal(jax.random.key(0), (3, 5))
    right = jnp.array([0, 4, 2])
    target = 0.9 * jax.nn.one_hot(right, 5) + 0.1 / 5
    expected = -(target * jax.nn.log_softmax(logits)).sum(axis=-1)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, right, 0.1), expected, rtol=1e-5)


def test_pieces_put_together_are_the_text():
    lines = [" ".join(words) for words in sentences(50, 0)]
    pieces = find_pieces(lines, 30)
    assert pieces.decode(pieces.encode(lines)) == lines
    assert max(map(max, pieces.encode(lines))) < 30
    # Nothing but what the text holds decides, so that every call finds the same.
    assert find_pieces(lines, 30).encode(lines) == pieces.encode(lines)


def test_padded_pairs_say_where_they_end():
    pairs = pad([[4, 5], [6]], [[7], [8, 9]])
    np.testing.assert_array_equal(pairs.source, [[4, 5], [6, 0]])
    np.testing.assert_array_equal(pairs.target, [[BEGIN, 7, END, 0], [BEGIN, 8, 9, END]])
    np.testing.assert_array_equal(pairs.source_lengths, [2, 1])
    np.testing.assert_array_equal(pairs.target_lengths, [2, 3])


def test_batches_differ_by_seed_but_not_in_shape(corpus):
    configs = [check(translation.Config, {**TINY, "seed": seed}, where="") for seed in (0, 1)]
    one, other = (translation.Ordered(corpus, config) for config in configs)
    again = translation.Ordered(corpus, configs[0])
    differ = False
    for step in range(4):
        jax.tree.map(np.testing.assert_array_equal, one(step), again(step))
        assert jax.tree.map(np.shape, one(step)) == jax.tree.map(np.shape, other(step))
        differ |= not np.array_equal(one(step).source, other(step).source)
    assert differ
    widths = [one(step).source.shape[1] for step in range(2)]
    assert sorted(widths) == [pairs.source.shape[1] for pairs in one.classes]


def test_the_loss_sees_no_padding(tmp_path, monkeypatch):
    task = translation.build(
        check(translation.Config, TINY, where=""), publish(tmp_path, monkeypatch)
    )
    batch = task.batch_at(0)
    wider = batch._replace(target=np.pad(batch.target, ((0, 0), (0, 2)), constant_values=9))
    expected, _ = task.loss(task.params, batch, None)
    np.testing.assert_allclose(task.loss(task.params, wider, None)[0], expected, rtol=1e-5)


def test_baselines():
    lines = [f"{word} {other}" for word, other in itertools.combinations(WORDS, 2)]
    read = {"de": lines, "en": [f"{line} one two three" for line in lines]}
    found = translation.baselines({"train": read, "test": read})
    # A sentence that was trained on is its own nearest.
    assert np.isclose(found["translation of the nearest training sentence"]["bleu"], 100)
    assert found["the German sentence"]["bleu"] < 50


@pytest.mark.slow
def test_trains_and_leaves_translations_and_a_plot(
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


def test_a_file_that_is_no_archive_is_named(tmp_path, monkeypatch):
    publish(tmp_path, monkeypatch)
    file = data.MULTI30K["train", "de"]
    (tmp_path / file.filename).write_bytes(b"Zwei junge Hunde")
    with pytest.raises(UserError, match="not the published file"):
        read_multi30k(tmp_path, 30)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pieces": 5000}, "pieces is 5000, but so many cannot be found"),
        ({"longest": 1}, "longest is 1, but"),
        ({"model": {"bidirectional": True}}, "model.bidirectional is True, but should be False"),
    ],
)
def test_what_cannot_be_is_refused(
    changed, message, write_config, refused, tmp_path_factory, monkeypatch
):
    directory = publish(tmp_path_factory.mktemp("data"), monkeypatch)
    assert message in refused("train", write_config({**TINY, **changed}), "--data-dir", directory)
