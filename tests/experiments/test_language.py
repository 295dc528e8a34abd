"""Properties of the character language model: streams, carry, baselines."""

import itertools
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.runs.config_loading import check
from experiments.tasks import language
from tests.experiments.fake_dataset import publish

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


def build(tmp_path, monkeypatch, **changes):
    directory = publish("shakespeare", TEXT.encode(), tmp_path, monkeypatch)
    values = {
        "task": "language",
        "window": 10,
        "model": {"hidden_size": 5},
        "training": {"steps": 4, "batch_size": 3},
        **changes,
    }
    return language.build(check(language.Config, values, where="test"), directory)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 5), st.integers(200, 400))
def test_streams_are_contiguous_within_an_epoch(streams, window, seed, length):
    text = np.arange(length, dtype=np.int32)
    windows = [language.window_at(text, streams, window, seed, step) for step in range(60)]
    assert windows[0].is_start
    for this, following in itertools.pairwise(windows):
        assert this.characters.shape == (streams, window + 1)
        np.testing.assert_array_equal(np.diff(this.characters, axis=1), 1)
        if not following.is_start:
            np.testing.assert_array_equal(following.characters[:, 0], this.characters[:, -1])
    # Streams do not overlap.
    end = next((at for at, w in enumerate(windows) if at and w.is_start), len(windows))
    predicted = np.concatenate([w.characters[:, 1:] for w in windows[:end]], axis=None)
    assert len(set(predicted)) == len(predicted)


def test_a_short_text_is_rejected(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"batch_size is 3 and window is 2000"):
        build(tmp_path, monkeypatch, window=2000)


def test_windows_with_a_carried_state_equal_one_unroll(tmp_path, monkeypatch):
    task = build(tmp_path, monkeypatch)
    carry, losses = task.carry, []
    batches = [task.batch_at(step) for step in range(3)]
    for batch in batches:
        loss, (_, carry) = task.loss(task.params, batch, None, carry)
        losses.append(loss)
    whole = np.concatenate(
        [batches[0].characters, *(batch.characters[:, 1:] for batch in batches[1:])], axis=1
    )
    once, (_, last) = task.loss(
        task.params, language.Window(whole, np.asarray(True)), None, task.carry
    )
    np.testing.assert_allclose(np.mean(losses), once, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, last)
    # A new epoch resets the state.
    again, _ = task.loss(task.params, batches[0], None, carry)
    np.testing.assert_allclose(again, losses[0], rtol=1e-6)


def test_a_network_of_zeros_has_the_entropy_of_uniform_symbols(tmp_path, monkeypatch):
    task = build(tmp_path, monkeypatch)
    silent = jax.tree.map(np.zeros_like, task.params)
    expected = np.log2(len(set(TEXT)))
    for split in ("validation", "test"):
        found = task.evaluate(silent, split)["bits_per_character"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_likelihoods_are_distributions():
    random = np.random.default_rng(0)
    size, text = 4, np.random.default_rng(1).integers(0, 4, 300)
    for order in (1, 2, 3):
        counts = language.count_ngrams(text, order, size)
        assert counts.sum() == len(text) - order + 1
        context = random.integers(0, 4, 2)
        total = sum(
            language._likelihoods(np.array([*context, last]), [counts])[0, 0]
            for last in range(size)
        )
        np.testing.assert_allclose(total, 1)


def test_a_trigram_predicts_a_periodic_text():
    text = np.tile([0, 1, 2, 1], 200)
    splits = {"train": text, "validation": text, "test": text}
    metrics = language.baselines(splits, 3)
    assert metrics["3-gram, interpolated"]["bits_per_character"] < 1e-2
    # Half of the characters are 1, a quarter each 0 and 2.
    np.testing.assert_allclose(metrics["unigram"]["bits_per_character"], 1.5, atol=0.01)


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [TEXT, "äß漢\n" * 100, "a" * 100])
def test_the_splits_are_the_text(tmp_path, text):
    alphabet, splits = language.read_text(write_text(tmp_path / "text", text))
    assert list(alphabet) == sorted(set(text))
    assert "".join(alphabet[i] for part in splits.values() for i in part) == text
    fractions = [len(split) / len(text) for split in splits.values()]
    np.testing.assert_allclose(fractions, [0.9, 0.05, 0.05], atol=1 / len(text))


def test_a_text_of_your_own_replaces_shakespeare(tmp_path, monkeypatch):
    own = write_text(tmp_path / "own.txt", TEXT.upper())
    task = build(tmp_path, monkeypatch, data_file=str(own), sample=50)
    task.plot(task.params, tmp_path)
    assert set((tmp_path / "sample.txt").read_text()[:-1]) <= set(TEXT.upper())


LINES = "0123456789\n" * 100


@pytest.mark.parametrize("text", ["", "abc", "a" * 49])
def test_a_text_too_short_to_split_is_rejected(tmp_path, text):
    with pytest.raises(UserError, match=f"has {len(text)} characters, but should have more"):
        language.read_text(write_text(tmp_path / "text", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES[:-1] + "é", "line 100, column 11: the symbol 'é' is not in the training split"),
        (LINES + "\t", r"line 101, column 1: the symbol '\t' is not in the training split"),
        (LINES[:1000] + "x" + LINES[1000:] + "y", "line 91, column 11: the symbol 'x' is not"),
        ("".join(map(chr, range(32, 32 + 300))) * 2, "has 300 different symbols, but should have"),
    ],
)
def test_symbols_outside_the_alphabet_are_named(tmp_path, text, message):
    path = write_text(tmp_path / "text", text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        language.read_text(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"\xff" * 100, None])
def test_a_file_that_is_not_a_text_is_named(tmp_path, content):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} cannot be read as text"):
        language.read_text(path)


def test_samples_use_the_alphabet(tmp_path, monkeypatch):
    task = build(tmp_path, monkeypatch, sample=50)
    task.plot(task.params, tmp_path)
    text = (tmp_path / "sample.txt").read_text()
    assert len(text) == 51
    assert set(text[:-1]) <= set(TEXT)


def test_the_published_text(published_data):
    path = registry.locate(registry.SHAKESPEARE, published_data)
    alphabet, splits = language.read_text(path)
    assert len(alphabet) == 65
    assert [len(part) for part in splits.values()] == [1_003_855, 55_769, 55_770]
    assert "".join(alphabet[i] for i in splits["train"][:14]) == "First Citizen:"
