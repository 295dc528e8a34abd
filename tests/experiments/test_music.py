"""Properties of the music task: pieces, files, baselines and loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.runs.config_loading import check
from experiments.tasks import music as music_task


def build(values, data_dir):
    return music_task.build(check(music_task.Config, values, where="test"), data_dir)


def pieces(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 2, (length, 88)).astype(np.uint8) for length in lengths]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=4), st.integers(2, 12))
def test_split_pieces_predict_each_frame_once(lengths, longest):
    whole = pieces(*lengths)
    parts = music_task.split_pieces(whole, longest)
    assert all(2 <= len(part) <= longest for part in parts)
    predicted = np.concatenate([part[1:] for part in parts])
    np.testing.assert_array_equal(predicted, np.concatenate([piece[1:] for piece in whole]))
    known = np.concatenate([part[:-1] for part in parts])
    np.testing.assert_array_equal(known, np.concatenate([piece[:-1] for piece in whole]))


def test_padding_is_zero_and_does_not_affect_the_loss(music, tmp_path, monkeypatch):
    task = build(music, music_file(tmp_path, monkeypatch))
    short, long = music_task.pad(pieces(7)), music_task.pad(pieces(7, 15))
    np.testing.assert_array_equal(long.frames[0, 7:], 0)
    alone, _ = task.loss(task.params, short, None)
    both, _ = task.loss(task.params, long, None)
    other, _ = task.loss(task.params, music_task.pad(pieces(7, 15)[1:]), None)
    # Every frame but a piece's first weighs the same.
    np.testing.assert_allclose(both, (6 * alone + 14 * other) / 20, rtol=1e-6)


def test_a_file_of_your_own_replaces_the_published_one(music, tmp_path):
    path = tmp_path / "mine.mat"
    splits = {"traindata": pieces(25), "validdata": pieces(9), "testdata": pieces(12, 5)}
    scipy.io.savemat(path, {key: cells_of(arrays) for key, arrays in splits.items()})
    task = build({**music, "data_file": str(path)}, tmp_path / "nowhere")
    expected = music_task.baselines(*splits.values())
    for name, metrics in task.evaluate_baselines().items():
        assert metrics == pytest.approx(expected[name])
    with pytest.raises(UserError, match=r"absent\.mat is not a readable"):
        build({**music, "data_file": str(tmp_path / "absent.mat")}, tmp_path)


def test_a_network_of_zeros_has_88_bits(music, tmp_path, monkeypatch):
    task = build(music, music_file(tmp_path, monkeypatch))
    silent = jax.tree.map(jnp.zeros_like, task.params)
    metrics = task.evaluate(silent, "test")
    np.testing.assert_allclose(metrics["nll_per_frame"], 88 * np.log(2), rtol=1e-6)


def test_baselines_of_music_have_the_expected_entropy():
    # In the training pieces, the first key sounds in every second frame, the second always.
    piece = np.zeros((1001, 88), np.uint8)
    piece[::2, 0] = 1
    piece[:, 1] = 1
    metrics = music_task.baselines([piece], [piece], [piece])
    # The other keys cost only the smoothing, at most 88 / 2000 nats.
    assert np.log(2) < metrics["unigram"]["nll_per_frame"] < np.log(2) + 0.05
    assert 0 < metrics["Markov chain per key"]["nll_per_frame"] < 0.1
    assert 0 < metrics["logistic regression"]["nll_per_frame"] < 0.1


def test_regression_on_equal_frames_at_once_is_that_on_each_frame():
    """Of music whose first key sounds after the second, and of a key that never sounds."""
    random = np.random.default_rng(0)
    train, test = (np.zeros((400, 88), np.uint8) for _ in range(2))
    for piece in (train, test):
        piece[:, 1:5] = random.uniform(size=(400, 4)) < 0.3
        piece[2:, 0] = piece[1:-1, 1] | piece[:-2, 2]
    inputs, targets = music_task.last_frames([train])
    np.testing.assert_array_equal(inputs[:, 88:], train[:-1])
    np.testing.assert_array_equal(inputs[1:, :88], train[:-2])
    assert not inputs[0, :88].any()

    expected = np.full((399, 88), 0.5 / 400)
    test_inputs, test_targets = music_task.last_frames([test])
    for key in range(5):
        fitted = LogisticRegression(C=1.0, max_iter=1000).fit(inputs, targets[:, key])
        expected[:, key] = fitted.predict_proba(test_inputs)[:, 1]
    # The penalty is chosen on the validation split: here that of the test split.
    found = music_task.regression_nll([train], [test], [test])
    assert found == pytest.approx(music_task.frame_nll(test_targets, expected), rel=1e-3)


@pytest.mark.slow
def test_baselines_of_the_published_pieces(published_data):
    expected = {"jsb": (11.09, 10.49, 8.87), "nottingham": (10.26, 5.15, 4.47)}
    for name, floors in expected.items():
        splits = music_task.read_pieces(
            registry.locate(registry.DATA_SETS[name].file, published_data)
        )
        metrics = music_task.baselines(**splits)
        found = [of_model["nll_per_frame"] for of_model in metrics.values()]
        np.testing.assert_allclose(found, floors, atol=0.006)


def cells_of(arrays):
    cells = np.empty((1, len(arrays)), object)
    for index, array in enumerate(arrays):
        cells[0, index] = array
    return cells


def music_file(directory, monkeypatch):
    """Makes the directory's JSB file a small one of random pieces."""
    path = directory / "JSB_Chorales.mat"
    splits = {"traindata": pieces(25, 40), "validdata": pieces(9), "testdata": pieces(12, 5)}
    scipy.io.savemat(path, {key: cells_of(arrays) for key, arrays in splits.items()})
    monkeypatch.setattr(registry, "locate", lambda file, data_dir: data_dir / file.filename)
    return directory


@pytest.mark.parametrize(
    ("key", "arrays", "expected"),
    [
        ("testdata", [np.full((5, 88), np.nan)], r"testdata\[0\] holds nan"),
        ("traindata", [np.full((5, 88), 2)], r"traindata\[0\] holds 2"),
        ("validdata", [*pieces(5), np.zeros((5, 87))], r"validdata\[1\] has shape \(5, 87\)"),
        ("validdata", [np.zeros((1, 88))], r"validdata\[0\] has shape \(1, 88\)"),
        ("validdata", [np.zeros((0, 88))], r"validdata\[0\] has shape \(0, 88\)"),
        ("testdata", [], "no piece in testdata"),
        ("testdata", None, "no testdata"),
    ],
)
def test_invalid_pieces_are_named(tmp_path, key, arrays, expected):
    splits = {"traindata": pieces(5), "validdata": pieces(5), "testdata": pieces(5), key: arrays}
    path = tmp_path / "pieces.mat"
    scipy.io.savemat(path, {k: cells_of(v) for k, v in splits.items() if v is not None})
    with pytest.raises(UserError, match=expected):
        music_task.read_pieces(path)


@pytest.mark.parametrize("content", [b"", b"not a .mat file, but a text of some length" * 10])
def test_a_file_that_is_not_a_mat_file_is_named(tmp_path, content):
    path = tmp_path / "pieces.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable \.mat file"):
        music_task.read_pieces(path)


def test_a_truncated_mat_file_is_an_error(tmp_path):
    path = tmp_path / "pieces.mat"
    splits = {key: cells_of(pieces(5)) for key in music_task.FILE_KEYS.values()}
    scipy.io.savemat(path, splits, do_compression=True)
    content = path.read_bytes()
    for size in range(1, len(content), max(1, len(content) // 20)):
        path.write_bytes(content[:size])
        with pytest.raises(UserError):
            music_task.read_pieces(path)
