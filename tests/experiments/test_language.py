"""Properties of the character language model: streams, carry, baselines."""

import itertools
import re
from collections import Counter

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


def kneser_ney_of_one(train, text, order):
    """Returns P(last character | those before), by the equations of `kneser_ney`, with loops."""
    *context, last = text
    context = tuple(context[len(context) - min(order - 1, len(context)) :])

    def ngrams(length):
        return [tuple(train[at : at + length]) for at in range(len(train) - length + 1)]

    def counts_of(length):
        if length == order:
            return Counter(ngrams(length))
        return Counter(ngram[1:] for ngram in set(ngrams(length + 1)))

    def probability(context):
        counts = counts_of(len(context) + 1)
        n = [max(1, sum(count == times for count in counts.values())) for times in range(1, 5)]
        y = n[0] / (n[0] + 2 * n[1])
        discount = [max(0.1, k - (k + 1) * y * n[k] / n[k - 1]) for k in (1, 2, 3)]
        lower = probability(context[1:]) if context else 1 / SIZE
        after = {g[-1]: count for g, count in counts.items() if g[:-1] == context}
        if not after:
            return lower
        reserved = sum(discount[min(count, 3) - 1] for count in after.values())
        count = after.get(last, 0)
        kept = count - discount[min(count, 3) - 1] if count else 0
        return (kept + reserved * lower) / sum(after.values())

    return probability(context)


SIZE = 5
SKEWED = [0.5, 0.3, 0.1, 0.06, 0.04]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5), st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=8), st.integers(0, 9)
)
def test_kneser_ney_is_a_distribution_and_follows_its_equations(order, text, seed):
    train = np.random.default_rng(seed).choice(SIZE, 200, p=SKEWED)
    found = [
        language.kneser_ney(train, np.array([*text, last]), order, SIZE)[-1] for last in range(SIZE)
    ]
    assert min(found) > 0
    np.testing.assert_allclose(sum(found), 1, rtol=1e-12)
    expected = [kneser_ney_of_one(train.tolist(), [*text, last], order) for last in range(SIZE)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_kneser_ney_of_a_character_reads_no_later_ones():
    random = np.random.default_rng(0)
    train, text = random.choice(SIZE, 500, p=SKEWED), random.choice(SIZE, 50, p=SKEWED)
    whole = language.kneser_ney(train, text, 4, SIZE)
    for end in (1, 2, 10):
        np.testing.assert_array_equal(whole[:end], language.kneser_ney(train, text[:end], 4, SIZE))


def test_the_order_is_that_of_the_text():
    """Each character is the sum of the two before it, and of a seldom 1, modulo 5."""
    random = np.random.default_rng(0)
    text = [0, 1]
    for slip in random.random(20_000) < 0.1:
        text.append((text[-2] + text[-1] + slip) % SIZE)
    train, test = np.array(text[:18_000]), np.array(text[18_000:])
    entropy = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    by_order = [language.bits(language.kneser_ney(train, test, n, SIZE)) for n in (1, 2, 3, 4)]
    assert by_order[0] > by_order[1] > by_order[2]
    assert by_order[2] == pytest.approx(entropy, abs=0.03)
    metrics = language.baselines({"train": train, "validation": test, "test": test}, SIZE)
    assert metrics["3-gram, Kneser-Ney"]["bits_per_character"] == by_order[2]


def test_baselines_predict_a_periodic_text():
    text = np.tile([0, 1, 2, 1], 1000)
    splits = {"train": text, "validation": text, "test": text}
    unigram, ngram = language.baselines(splits, 3).values()
    assert ngram["bits_per_character"] < 1e-2
    # Half of the characters are 1, a quarter each 0 and 2.
    np.testing.assert_allclose(unigram["bits_per_character"], 1.5, atol=0.01)


def test_baselines_of_the_shortest_splits():
    train, short = np.tile([0, 1], 30), np.array([0, 1, 0])
    metrics = language.baselines({"train": train, "validation": short, "test": short}, 2)
    assert all(np.isfinite(of_model["bits_per_character"]) for of_model in metrics.values())


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


@pytest.mark.slow
def test_baselines_of_the_published_text(published_data):
    alphabet, splits = language.read_text(registry.locate(registry.SHAKESPEARE, published_data))
    metrics = language.baselines(splits, len(alphabet))
    found = {name: of_model["bits_per_character"] for name, of_model in metrics.items()}
    assert found == pytest.approx({"unigram": 4.850, "7-gram, Kneser-Ney": 2.279}, abs=1e-3)
