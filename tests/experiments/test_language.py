"""Laws of the character language model: its streams, its carry, its baselines."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.errors import UserError
from experiments.loading import check
from experiments.tasks import language
from tests.experiments.publish import publish

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
def test_streams_go_on_until_the_pass_ends(streams, window, seed, length):
    text = np.arange(length, dtype=np.int32)
    windows = [language.window_at(text, streams, window, seed, step) for step in range(60)]
    assert windows[0].begins
    for this, following in itertools.pairwise(windows):
        assert this.characters.shape == (streams, window + 1)
        np.testing.assert_array_equal(np.diff(this.characters, axis=1), 1)
        if not following.begins:
            np.testing.assert_array_equal(following.characters[:, 0], this.characters[:, -1])
    # No stream reads what another one does.
    end = next((at for at, w in enumerate(windows) if at and w.begins), len(windows))
    predicted = np.concatenate([w.characters[:, 1:] for w in windows[:end]], axis=None)
    assert len(set(predicted)) == len(predicted)


def test_a_text_too_short_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"batch_size is 3 and window is 2000"):
        build(tmp_path, monkeypatch, window=2000)


def test_windows_with_the_state_carried_over_are_one_pass(tmp_path, monkeypatch):
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
    # A pass that begins forgets what came before.
    again, _ = task.loss(task.params, batches[0], None, carry)
    np.testing.assert_allclose(again, losses[0], rtol=1e-6)


def test_a_network_that_says_nothing_takes_the_logarithm_of_the_alphabet(tmp_path, monkeypatch):
    task = build(tmp_path, monkeypatch)
    silent = jax.tree.map(np.zeros_like, task.params)
    expected = np.log2(len(set(TEXT)))
    for split in ("validation", "test"):
        found = task.figures(silent, split)["bits_per_character"]
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


def test_a_text_that_repeats_itself_costs_a_trigram_nothing():
    text = np.tile([0, 1, 2, 1], 200)
    parts = {"train": text, "validation": text, "test": text}
    figures = language.baselines(parts, 3)
    assert figures["3-gram, interpolated"]["bits_per_character"] < 1e-2
    # Half of the characters are 1, a quarter each 0 and 2.
    np.testing.assert_allclose(figures["unigram"]["bits_per_character"], 1.5, atol=0.01)


def test_samples_are_of_the_alphabet(tmp_path, monkeypatch):
    task = build(tmp_path, monkeypatch, sample=50)
    task.draw(task.params, tmp_path)
    text = (tmp_path / "sample.txt").read_text()
    assert len(text) == 51
    assert set(text[:-1]) <= set(TEXT)


def test_the_published_text(published_data):
    path = data.locate(data.SHAKESPEARE, published_data)
    alphabet, text = language.read_text(path)
    assert (len(alphabet), len(text)) == (65, 1_115_394)
    assert "".join(alphabet[i] for i in text[:14]) == "First Citizen:"
