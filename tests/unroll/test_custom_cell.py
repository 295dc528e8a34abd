"""A custom cell, in one class, is given everything that the library's cells have."""

import contextlib
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import gru_jax
from gru_jax._unroll.api import make_call_options
from gru_jax.cells import add_bias, dot
from tests.assert_trees import assert_close

TIME, BATCH, INPUT, HIDDEN = 6, 2, 3, 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MinimalGatedUnit(gru_jax.Cell):
    """Zhou et al. 2016 (arXiv 1603.09420): one gate forgets and resets."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.w_h.shape[0]), self.w_h.dtype)

    def project(self, xs):
        return jnp.split(add_bias(dot(xs, self.w_x), self.b), 2, axis=-1)

    def recur(self, state, projected):
        u_f, u_n = jnp.split(self.w_h, 2, axis=-1)
        f = jax.nn.sigmoid(projected[0] + dot(state, u_f))
        n = jnp.tanh(projected[1] + dot(f * state, u_n))
        return state + f * (n - state)


def init(key, input_size, hidden_size):
    keys = jax.random.split(key, 3)
    return MinimalGatedUnit(
        jax.random.normal(keys[0], (input_size, 2 * hidden_size)),
        jax.random.normal(keys[1], (hidden_size, 2 * hidden_size)) / 2,
        jax.random.normal(keys[2], (2 * hidden_size,)),
    )


@pytest.fixture
def cell():
    return init(jax.random.key(0), INPUT, HIDDEN)


@pytest.fixture
def xs():
    return jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUT))


def one_sequence(cell, xs, h):
    """The paper's equations 4 to 6 in NumPy."""
    w_x, w_h, b = (np.asarray(leaf, np.float64) for leaf in (cell.w_x, cell.w_h, cell.b))
    (w_f, w_n), (u_f, u_n), (b_f, b_n) = (np.split(leaf, 2, axis=-1) for leaf in (w_x, w_h, b))
    ys = []
    for x in np.asarray(xs, np.float64):
        f = 1 / (1 + np.exp(-(x @ w_f + h @ u_f + b_f)))
        h = (1 - f) * h + f * np.tanh(x @ w_n + (f * h) @ u_n + b_n)
        ys.append(h)
    return h, np.stack(ys)


def test_values(cell, xs):
    last, ys = gru_jax.unroll(cell, xs)
    for i in range(BATCH):
        expected = one_sequence(cell, xs[:, i], np.zeros(HIDDEN))
        assert_close((last[i], ys[:, i]), expected, "float32")


def test_step(cell, xs):
    state = gru_jax.initial_state(cell, (BATCH,))
    assert_close(gru_jax.step(cell, state, xs[0]), gru_jax.unroll(cell, xs)[1][0], "float32")


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(cell, xs, reverse):
    last, ys = gru_jax.unroll(cell, xs, lengths=np.array([2, 5]), reverse=reverse)
    for i, length in enumerate((2, 5)):
        expected = gru_jax.unroll(cell, xs[:length, i], reverse=reverse)
        assert_close((last[i], ys[:length, i]), expected, "float32")
        assert not ys[length:, i].any()


def test_mask_and_starts(cell, xs):
    """Step 1 is masked, and a new segment starts at step 4."""
    mask = np.arange(TIME)[:, None] != np.array([1, 1])
    starts = np.arange(TIME)[:, None] == np.array([4, 4])
    last, ys = gru_jax.unroll(cell, xs.at[1].set(jnp.nan), mask=mask, starts=starts)
    _, before = gru_jax.unroll(cell, xs[np.array([0, 2, 3])])
    expected, after = gru_jax.unroll(cell, xs[4:])
    assert_close(ys, jnp.concatenate([before[:1], 0 * before[:1], before[1:], after]), "float32")
    assert_close(last, expected, "float32")


def test_windows(cell, xs):
    h = gru_jax.initial_state(cell, (BATCH,))
    for window in gru_jax.tbptt_windows(xs, 4):
        h, _ = gru_jax.unroll(cell, h0=h, **window)
    assert_close(h, gru_jax.unroll(cell, xs)[0], "float32")


@pytest.mark.parametrize("checkpoint", ["step", "chunk", 4])
def test_checkpoints(cell, xs, checkpoint):
    def loss(cell, checkpoint):
        return jnp.square(gru_jax.unroll(cell, xs, checkpoint=checkpoint)[1]).sum()

    gradient = jax.grad(loss)
    assert_close(gradient(cell, checkpoint), gradient(cell, None), "float32")


def test_truncation(cell, xs):
    last, ys = gru_jax.unroll_truncated(cell, xs, window=4)
    assert_close((last, ys), gru_jax.unroll(cell, xs), "float32")


@jax.enable_x64(True)
def test_derivatives(cell, xs):
    cell, xs = jax.tree.map(lambda leaf: leaf.astype("float64"), (cell, xs[:3]))
    check_grads(jax.jit(gru_jax.unroll), (cell, xs), order=2, modes=("fwd", "rev"))


def test_vmap(cell, xs):
    last, ys = jax.vmap(gru_jax.unroll, in_axes=(None, 1), out_axes=(0, 1))(cell, xs)
    assert_close((last, ys), gru_jax.unroll(cell, xs), "float32")


def test_low_precision(cell, xs):
    last, ys = gru_jax.unroll(cell, xs.astype("bfloat16"))
    assert (last.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)


def test_stack(cell, xs):
    stack = gru_jax.init_stack(
        jax.random.key(0), INPUT, HIDDEN, num_layers=2, bidirectional=True, init_cell=init
    )
    states, ys = gru_jax.unroll_stack(stack, xs, lengths=np.array([2, 5]))
    assert ys.shape == (TIME, BATCH, 2 * HIDDEN)
    assert [len(layer) for layer in states] == [2, 2]
    assert isinstance(stack.layers[1][1], MinimalGatedUnit)


@contextlib.contextmanager
def no_trace():
    """Tracing a step is an error."""
    with pytest.MonkeyPatch.context() as patch:
        untraced = chex.assert_max_traces(MinimalGatedUnit.recur, n=0)
        patch.setattr(MinimalGatedUnit, "recur", untraced)
        yield


def test_other_values_are_not_traced_again(cell, xs):
    """They call ``unroll`` outside of a jit."""
    controls = {"lengths": np.array([2, 5]), "mask": np.ones((TIME, BATCH), bool)}
    gru_jax.unroll(cell, xs, **controls)

    other = jax.tree.map(lambda leaf: leaf + 1, cell)
    changed = {"lengths": np.array([6, 0]), "mask": np.zeros((TIME, BATCH), bool)}
    with no_trace():
        gru_jax.unroll(other, 2 * xs, **changed)
        with pytest.raises(AssertionError, match="recur"):
            gru_jax.unroll(cell, xs[1:])


@pytest.mark.parametrize("function", [gru_jax.unroll, gru_jax.step])
def test_a_state_that_is_handed_on_is_not_traced_again(cell, xs, function):
    """The compiler sees no difference between the initial state and one that a call returned."""

    def advance(state):
        if function is gru_jax.step:
            return gru_jax.step(cell, state, xs[0])
        return gru_jax.unroll(cell, xs, state)[0]

    state = advance(gru_jax.initial_state(cell, (BATCH,)))
    with no_trace():
        advance(advance(state))


def test_without_a_class_of_its_own(xs):
    with pytest.raises(TypeError, match="params"):
        gru_jax.unroll(object(), xs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Counter(gru_jax.Cell):
    """Its state is an integer that float32 cannot hold."""

    step: jax.Array

    def initial_state(self, batch_shape=()):
        return jnp.full((*batch_shape, 1), 2**30 + 1, jnp.int32)

    def project(self, xs):
        return xs

    def recur(self, state, projected):
        return state + self.step.astype(jnp.int32)

    def output(self, state):
        return (state - 2**30).astype(jnp.float32)


@pytest.mark.parametrize("options", [{}, {"checkpoint": 4}])
def test_an_integer_state_stays_one(xs, options):
    cell = Counter(jnp.ones(()))
    for h0 in (None, gru_jax.initial_state(cell, (BATCH,))):
        last, ys = gru_jax.unroll(cell, xs, h0, lengths=[6, 2], **options)
        assert last.dtype == jnp.int32
        assert (last[:, 0] - 2**30).tolist() == [7, 3]
        assert ys[:, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert gru_jax.step(cell, last, xs[0]).dtype == jnp.int32
    with pytest.raises(TypeError, match=r"h0.*integers.*float32"):
        gru_jax.unroll(cell, xs, jnp.zeros((BATCH, 1)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Latch(gru_jax.Cell):
    """Remembers in a boolean whether an input was positive, and carries a random key along."""

    def initial_state(self, batch_shape=()):
        keys = jnp.broadcast_to(jax.random.key(3), batch_shape)
        return jnp.zeros((*batch_shape, 1), bool), keys, jnp.ones((*batch_shape, 1), jnp.complex64)

    def project(self, xs):
        return xs

    def recur(self, state, projected):
        seen, key, phase = state
        return seen | (projected.sum(-1, keepdims=True) > 0), key, phase * 1j

    def output(self, state):
        return state[0].astype(jnp.float32)


def test_states_of_any_dtype_are_handed_on(xs):
    cell = Latch()
    whole, ys = gru_jax.unroll(cell, xs)
    half, first = gru_jax.unroll(cell, xs[:3])
    last, second = gru_jax.unroll(cell, xs[3:], half)
    assert jnp.array_equal(ys, jnp.concatenate([first, second]))
    assert all(jnp.array_equal(*leaves) for leaves in zip(whole, last, strict=True))
    with pytest.raises(TypeError, match=r"h0\[0\] must be an array of bool, got dtype float32"):
        gru_jax.unroll(cell, xs, (jnp.zeros((BATCH, 1)), *half[1:]))


def activation(function):
    """A class of its own for each function; all have equal fields."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Activation:
        scale: jax.Array

        def __call__(self, a):
            return function(self.scale * a)

    return Activation(jnp.ones(()))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WithPart(gru_jax.Cell):
    """A cell whose part decides its equation."""

    part: Any

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, INPUT))

    def project(self, xs):
        return xs

    def recur(self, state, projected):
        return self.part(state + projected)


def test_cells_with_parts_of_other_classes_are_other_cells(xs):
    """Also where the hash of their structures, by which programs are found, is the same."""
    sine, cosine = (WithPart(activation(function)) for function in (jnp.sin, jnp.cos))
    # From 0.10 on JAX takes the structures for equal.
    is_confused = jax.__version_info__ >= (0, 10)
    assert (jax.tree.structure(sine) == jax.tree.structure(cosine)) is is_confused
    kinds = [make_call_options(cell, {}, None, 1) for cell in (sine, cosine)]
    assert kinds[0] != kinds[1]
    assert kinds[0] == make_call_options(WithPart(sine.part), {}, None, 1)
    assert_close(gru_jax.unroll(sine, xs[:1])[0], jnp.sin(xs[0]), "float32")
    assert_close(gru_jax.unroll(cosine, xs[:1])[0], jnp.cos(xs[0]), "float32")
