"""Properties of the moving digits: paths, films, network and baselines."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.cli import main
from experiments.errors import UserError
from experiments.runs.config_loading import check
from experiments.tasks import video
from gru_jax import training

TINY = {
    "task": "video",
    "size": 12,
    "frames": 6,
    "held_out": 5,
    "model": {"hidden_size": 4},
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 2, "eval_every": 2},
}


def build(**changes):
    return video.build(check(video.Config, {**TINY, **changes}, where="test"), None)


def films(number, **options):
    images = np.random.default_rng(0).random((7, 8, 8), np.float32)
    return video.sample_films(images, number, frames=6, size=12, **{"seed": (0,), **options})


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 30), st.integers(2, 30), st.integers(0, 2**31))
def test_paths_are_straight_except_for_reflections(frames, free, seed):
    positions = video.sample_paths(np.random.default_rng(seed), (5,), frames, free)
    assert positions.shape == (5, frames, 2)
    assert positions.min() >= 0
    assert positions.max() <= free
    steps = np.diff(positions, axis=1)
    lengths = np.linalg.norm(steps, axis=-1)
    assert lengths.max() <= video.SPEEDS[1] + 1e-9
    # Positions farther from the borders than the distance per frame are not reflected.
    inside = ((positions > 2) & (positions < free - 2)).all(axis=-1)
    assert (lengths[inside[:, 1:]] >= video.SPEEDS[0] - 1e-9).all()
    straight = inside[:, 1:-1]
    np.testing.assert_allclose(steps[:, 1:][straight], steps[:, :-1][straight], atol=1e-9)


def test_a_digit_is_always_whole():
    image = np.random.default_rng(0).random((8, 8), np.float32)
    positions = video.sample_paths(np.random.default_rng(1), (20,), 30, 12 - 8)
    frames = video.render(image, positions, 12)
    np.testing.assert_allclose(frames.sum(axis=(-2, -1)), image.sum(), rtol=1e-5)
    np.testing.assert_array_equal(video.render(image, np.array([1.0, 3.0]), 12)[1:9, 3:11], image)
    between = video.render(image, np.array([1.5, 3.0]), 12)
    either = [video.render(image, np.array([row, 3.0]), 12) for row in (1, 2)]
    np.testing.assert_allclose(between, np.mean(either, axis=0), rtol=1e-6)


def test_films_show_two_digits():
    sampled = films(10)
    assert sampled.shape == (10, 6, 12, 12)
    assert sampled.dtype == np.float32
    assert sampled.min() >= 0
    assert sampled.max() <= 1
    squares = video.sample_films(np.ones((1, 8, 8), np.float32), 10, frames=6, size=24, seed=(0,))
    # Two squares, with fewer pixels where they overlap.
    assert (squares.sum(axis=(2, 3)) < 2 * 64 + 1e-3).all()
    assert (squares.sum(axis=(2, 3)) >= 64 - 1e-3).all()
    assert squares.sum(axis=(2, 3)).max() == pytest.approx(2 * 64)


def test_batches_are_a_function_of_seed_and_step():
    first, again, other = build(), build(), build(seed=1)
    np.testing.assert_array_equal(first.batch_at(5), again.batch_at(5))
    assert not np.array_equal(first.batch_at(5), first.batch_at(6))
    assert not np.array_equal(first.batch_at(5), other.batch_at(5))
    for ours, theirs in zip(*map(jax.tree.leaves, (first.params, again.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(first.params["readout"]["kernel"], other.params["readout"]["kernel"])


def test_splits_share_no_digit(monkeypatch):
    """Validation and test films do not depend on the seed."""
    sampled = {}

    def recording(images, number, *, seed, **options):
        sampled.setdefault(seed, set(map(bytes, images)))
        return np.zeros((number, 6, 12, 12), np.float32)

    monkeypatch.setattr(video, "sample_films", recording)
    task = build(seed=3)
    task.batch_at(7)
    task.evaluate_baselines()
    train, validation, test = sampled[0, 3, 7], sampled[1,], sampled[2,]
    assert sampled.keys() == {(0, 3, 7), (0,), (1,), (2,)}
    assert sampled[0,] == train
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_a_network_of_zeros_predicts_grey(monkeypatch):
    """All films have equal weight, whatever the batch size of the evaluation."""
    monkeypatch.setattr(video, "EVAL_BATCH", 2)
    sampled = {}
    sample = video.sample_films

    def recording(*arguments, **options):
        sampled[options["seed"]] = sample(*arguments, **options)
        return sampled[options["seed"]]

    monkeypatch.setattr(video, "sample_films", recording)
    task = build()
    silent = jax.tree.map(jnp.zeros_like, task.params)
    for split, seed in (("validation", (1,)), ("test", (2,))):
        expected = np.square(sampled[seed][:, 2:] - 0.5).mean()
        assert task.evaluate(silent, split)["mse"] == pytest.approx(expected, rel=1e-5)
        loss, _ = task.loss(silent, sampled[seed], jax.random.key(0))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_patches_are_neighbouring_pixels():
    frames = jnp.asarray(films(2))
    patches = video.fold(frames)
    assert patches.shape == (2, 6, 6, 6, 4)
    np.testing.assert_array_equal(patches[1, 3, 2, 5], frames[1, 3, 4:6, 10:12].reshape(-1))
    np.testing.assert_array_equal(video.unfold(patches), frames)


def test_a_frame_is_predicted_from_earlier_ones_only():
    task, known = build(model={"hidden_size": 3, "num_layers": 2}), films(2)
    changed = known.copy()
    changed[:, 3:] = 0
    ours, _ = video.predict(task.params, known)
    theirs, _ = video.predict(task.params, changed)
    np.testing.assert_array_equal(ours[:, :3], theirs[:, :3])
    assert np.abs(ours - theirs)[:, 3:].min(axis=(0, 2, 3)).max() > 0


def test_a_rollout_feeds_predictions_back():
    params, known = build(model={"hidden_size": 3, "num_layers": 2}).params, films(2)
    rolled_out = video.rollout(params, known, 2)
    for _ in range(2):
        predicted, _ = video.predict(params, known)
        known = np.concatenate([known, predicted[:, -1:]], axis=1)
    np.testing.assert_allclose(rolled_out, known[:, -2:], atol=1e-6)


def test_baselines_are_exact_for_their_own_models():
    picture = films(1)[0, 0]
    still = np.broadcast_to(picture, (2, 6, 12, 12))
    brighter = still * np.linspace(0, 1, 6, dtype=np.float32)[:, None, None]
    moving = np.stack([np.roll(np.pad(picture, 8), shift, axis=1) for shift in range(6)])[None]

    def of(train, test):
        return {name: metrics["mse"] for name, metrics in video.baselines(train, test).items()}

    assert max(of(still, still).values()) < 1e-9
    metrics = of(films(3), still)
    assert metrics["last frame"] == metrics["last change again"] == 0
    mean = films(3).mean(axis=(0, 1))
    assert metrics["mean frame"] == pytest.approx(np.square(mean - picture).mean(), rel=1e-5)
    metrics = of(brighter, brighter)
    assert metrics["last change again"] < 1e-9
    assert metrics["last frame"] == pytest.approx(np.square(picture / 5).mean(), rel=1e-5)
    metrics = of(moving, moving)
    assert metrics["linear map of 2 x 5 x 5 pixels"] < 1e-9
    assert metrics["last frame"] > 1e-3


@pytest.mark.slow
def test_a_little_training_beats_copying_the_last_frame():
    task = build(model={"hidden_size": 12}, training={"batch_size": 4}, held_out=20)
    optimizer = training.make_optimizer(0.02, max_grad_norm=1.0)
    state = training.TrainState.create(task.params, optimizer)
    step = training.make_train_step(task.loss, optimizer, seed=0)
    for index in range(80):
        state, _ = step(state, task.batch_at(index))
    trained, baselines = task.evaluate(state.params, "test"), task.evaluate_baselines()
    assert trained["mse"] < baselines["last frame"]["mse"]


@pytest.mark.slow
def test_seeds_are_compared(write_config):
    """Vmapped, with checkpoints and the plots of a run."""
    config = write_config(TINY)
    arguments = ["compare", str(config), "--cells", "gru", "--seeds", "2", "--output", "out"]
    assert main(arguments) == 0
    result = json.loads(Path("out/compare.json").read_text())
    assert list(result["baselines"])[1] == "last frame"
    plots = {path.name for path in Path("out/gru/s1/plots").iterdir()}
    assert plots == {"film.png", "learning_curves.png"}
    assert Path("out/gru/s1/plots/film.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "model",
    [
        {"cell": "lstm"},
        {"bidirectional": True},
        {"dropout": 0.5},
        {"dropconnect": 0.5},
        {"chrono_bias": 20.0},
    ],
)
def test_unsupported_options_are_rejected(model):
    ((name, value),) = model.items()
    with pytest.raises(UserError, match=f"model.{name} is {value!r}, but should be"):
        check(video.Config, {"task": "video", "model": model}, where="test")


def test_unsupported_cells_are_not_compared(write_config, user_error):
    message = user_error("compare", write_config(TINY), "--cells", "gru,lstm")
    assert message.startswith("--cells lstm: model.cell is 'lstm', but should be 'gru'")
    assert message.count("\n") == 1
