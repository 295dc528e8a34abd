"""A convolutional cell supports everything that other cells do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import gru_jax
from experiments.models.conv_gru import ConvGRU, convolve, init_conv_gru
from tests.assert_trees import assert_close, assert_equal

TIME, BATCH, FRAME, INPUT, HIDDEN = 6, 2, (3, 4), 2, 3
RESETS = ("after", "before")


@pytest.fixture
def cell():
    cell = init_conv_gru(jax.random.key(0), INPUT, HIDDEN, frame=FRAME)
    biases = jax.random.normal(jax.random.key(2), (4 * HIDDEN,))
    return dataclasses.replace(cell, b=biases[HIDDEN:], b_hn=biases[:HIDDEN])


@pytest.fixture
def xs():
    return jax.random.normal(jax.random.key(1), (TIME, BATCH, *FRAME, INPUT))


@pytest.mark.parametrize("reset", RESETS)
def test_a_single_pixel_is_a_gru(reset):
    dense = gru_jax.init(jax.random.key(0), INPUT, HIDDEN, reset=reset, bias_init="torch")
    pixel = ConvGRU(
        dense.w_x[None, None], dense.w_h[None, None], dense.b, dense.b_hn, (1, 1), reset
    )
    xs = jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT))
    last, ys = gru_jax.unroll(pixel, xs[:, :, None, None])
    expected = gru_jax.unroll(dense, xs)
    assert_close((last[:, 0, 0], ys[:, :, 0, 0]), expected, "float32")


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_convolution_is_that_of_xla(xs, kernel):
    w = jax.random.normal(jax.random.key(0), (kernel, kernel, INPUT, HIDDEN))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(xs[0], w, (1, 1), "SAME", dimension_numbers=layout)
    assert_close(convolve(xs, w)[0], expected, "float32")


@pytest.mark.parametrize("reset", RESETS)
def test_the_cell_is_translation_equivariant(reset):
    """Except near the borders, whose influence spreads by a pixel or two per step."""
    cell = init_conv_gru(jax.random.key(0), INPUT, HIDDEN, frame=(15, 15), reset=reset)
    xs = jax.random.normal(jax.random.key(1), (3, 15, 15, INPUT))
    inside = slice(6, -6)
    _, ys = gru_jax.unroll(cell, xs)
    _, shifted = gru_jax.unroll(cell, jnp.roll(xs, (1, -1), axis=(1, 2)))
    expected = jnp.roll(ys, (1, -1), axis=(1, 2))
    assert_close(shifted[:, inside, inside], expected[:, inside, inside], "float32")
    assert np.abs(shifted - ys)[:, inside, inside].min() > 0


@pytest.mark.parametrize("reset", RESETS)
@jax.enable_x64(True)
def test_derivatives(reset):
    cell = init_conv_gru(jax.random.key(0), INPUT, HIDDEN, frame=FRAME, reset=reset)
    xs = jax.random.normal(jax.random.key(1), (2, *FRAME, INPUT), "float64")
    cell = jax.tree.map(lambda leaf: leaf.astype("float64"), cell)
    check_grads(jax.jit(gru_jax.unroll), (cell, xs), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_truncation(cell, xs, reverse):
    last, ys = gru_jax.unroll(cell, xs, lengths=np.array([2, 5]), reverse=reverse)
    for i, length in enumerate((2, 5)):
        expected = gru_jax.unroll(cell, xs[:length, i], reverse=reverse)
        assert_close((last[i], ys[:length, i]), expected, "float32")
        assert not ys[length:, i].any()


def test_reverse_is_flip(cell, xs):
    last, ys = gru_jax.unroll(cell, xs, reverse=True)
    flipped_last, flipped = gru_jax.unroll(cell, xs[::-1])
    assert_close((last, ys), (flipped_last, flipped[::-1]), "float32")


def test_masked_steps_are_skipped_and_starts_reset_the_state(cell, xs):
    """In one of two sequences step 1 is masked and step 4 is a start."""
    mask = np.arange(TIME)[:, None] != np.array([1, TIME])
    starts = np.arange(TIME)[:, None] == np.array([4, TIME])
    last, ys = gru_jax.unroll(cell, xs.at[1, 0].set(jnp.nan), mask=mask, starts=starts)
    _, before = gru_jax.unroll(cell, xs[np.array([0, 2, 3]), 0])
    expected, after = gru_jax.unroll(cell, xs[4:, 0])
    rows = jnp.concatenate([before[:1], 0 * before[:1], before[1:], after])
    assert_close((last[0], ys[:, 0]), (expected, rows), "float32")
    untouched = gru_jax.unroll(cell, xs[:, 1])
    assert_close((last[1], ys[:, 1]), untouched, "float32")


def test_masked_inputs_have_no_gradient(cell, xs):
    mask = np.ones((TIME, BATCH), bool)
    mask[2, 0] = False

    def loss(cell, xs):
        return jnp.square(gru_jax.unroll(cell, xs, mask=mask)[1]).sum()

    clean = jax.grad(loss, (0, 1))(cell, xs.at[2, 0].set(0))
    assert_equal(jax.grad(loss, (0, 1))(cell, xs.at[2, 0].set(jnp.nan)), clean)
    assert not clean[1][2, 0].any()


def test_films_can_be_split_anywhere(cell, xs):
    whole = gru_jax.unroll(cell, xs)
    h, rows = gru_jax.initial_state(cell, (BATCH,)), []
    for window in gru_jax.tbptt_windows(xs, 4):
        h, ys = gru_jax.unroll(cell, h0=h, **window)
        rows.append(ys)
    assert_close((h, jnp.concatenate(rows)), whole, "float32")
    h = gru_jax.initial_state(cell, (BATCH,))
    for x in xs:
        h = gru_jax.step(cell, h, x)
    assert_close(h, whole[0], "float32")


def test_recomputation_changes_no_gradient(cell, xs):
    def loss(cell, checkpoint):
        return jnp.square(gru_jax.unroll(cell, xs, checkpoint=checkpoint)[1]).sum()

    gradient = jax.grad(loss)
    assert_close(gradient(cell, "step"), gradient(cell, None), "float32")


def test_truncation_changes_no_value(cell, xs):
    truncated = gru_jax.unroll_truncated(cell, xs, window=4)
    assert_close(truncated, gru_jax.unroll(cell, xs), "float32")


def test_any_number_of_batch_axes(cell, xs):
    last, ys = gru_jax.unroll(cell, xs)
    more = xs.reshape(TIME, 1, BATCH, 1, *FRAME, INPUT)
    more_last, more_ys = gru_jax.unroll(cell, more)
    assert more_last.shape == (1, BATCH, 1, *FRAME, HIDDEN)
    assert_close(more_last.reshape(last.shape), last, "float32")
    assert_close(more_ys.reshape(ys.shape), ys, "float32")
    mapped = jax.vmap(gru_jax.unroll, in_axes=(None, 1), out_axes=(0, 1))(cell, xs)
    assert_close(mapped, (last, ys), "float32")


def test_layers_and_directions(xs):
    stack = gru_jax.init_stack(
        jax.random.key(0),
        INPUT,
        HIDDEN,
        num_layers=2,
        bidirectional=True,
        init_cell=init_conv_gru,
        frame=FRAME,
    )
    lengths = np.array([2, 5])
    states, ys = gru_jax.unroll_stack(stack, xs, lengths=lengths)
    assert ys.shape == (TIME, BATCH, *FRAME, 2 * HIDDEN)
    initial = gru_jax.initial_state(stack, (BATCH,))
    assert jax.tree.map(jnp.shape, states) == jax.tree.map(jnp.shape, initial)


def test_low_precision(cell, xs):
    last, ys = gru_jax.unroll(cell, xs.astype("bfloat16"))
    assert (last.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((*FRAME, INPUT), "at least 4 axes"),
        ((TIME, *FRAME, INPUT + 1), "input size"),
        ((TIME, 5, 5, INPUT), r"\(5, 5\), expected \(3, 4\)"),
    ],
)
def test_films_of_other_shapes_are_rejected(cell, shape, message):
    with pytest.raises(ValueError, match=message):
        gru_jax.unroll(cell, jnp.zeros(shape))


def test_states_of_other_shapes_are_rejected(cell, xs):
    with pytest.raises(ValueError, match="h0"):
        gru_jax.unroll(cell, xs, jnp.zeros((BATCH, 5, 5, HIDDEN)))


def test_an_even_kernel_is_rejected():
    with pytest.raises(ValueError, match="kernel must be odd, got 2"):
        init_conv_gru(jax.random.key(0), INPUT, HIDDEN, frame=FRAME, kernel=2)
