"""Cells with one unusual part: what an AffineCell may be, and which parts run by scan."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax.cells import AffineCell, dot

TIME, BATCH, HIDDEN = 5, 3, 4
KEY = jax.random.key(7)


def registered(cls):
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


@registered
class SmallCell(AffineCell):
    """A plain RNN, whose subclasses differ in one part each."""

    w_x: jax.Array
    w_h: jax.Array
    extra: jax.Array

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, HIDDEN))

    def project(self, xs):
        return dot(xs, self.w_x), xs

    def combine(self, state, projected, affine):
        (total,) = affine(state, self.w_h, (projected[0],))
        return jnp.tanh(total)


@registered
class MaskedWeights(SmallCell):
    def combine(self, state, projected, affine):
        (total,) = affine(state, jnp.where(self.extra, self.w_h, 0), (projected[0],))
        return jnp.tanh(total)


@registered
class Heads(SmallCell):
    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, 2, HIDDEN))

    def project(self, xs):
        return jnp.stack([dot(xs, self.w_x), dot(xs, self.extra)], axis=-2)

    def combine(self, state, projected, affine):
        (total,) = affine(state, self.w_h, (projected,))
        return jnp.tanh(total)


@registered
class NarrowBias(SmallCell):
    def combine(self, state, projected, affine):
        (total,) = affine(state, self.w_h, (self.extra,))
        return jnp.tanh(total + projected[0])


@registered
class RawInputs(SmallCell):
    def combine(self, state, projected, affine):
        totals = affine(state, jnp.concatenate([self.w_h, self.w_h], -1), projected)
        skipped = projected[1].astype(state.dtype)
        return jnp.tanh(totals[0]) + 0.3 * skipped * jnp.cos(totals[1])


ACROSS = {
    "batch norm": (lambda x: x - x.mean((0, 1), keepdims=True), "reduce_sum"),
    "softmax over time": (lambda x: jax.nn.softmax(x, 0), "reduce_max"),
    "running sum": (lambda x: jnp.cumsum(x, 0), "cumsum"),
    "the step before": (lambda x: jnp.concatenate([x[:1], x[:-1]]), "slice"),
    "reversed": (lambda x: x[::-1], "rev"),
    "attention": (lambda x: jnp.einsum("tbd,sbd,sbe->tbe", x, x, x), "dot_general"),
    "mean of joined rows": (lambda x: x - x.reshape(-1, HIDDEN).mean(0)[None, None], "reduce_sum"),
    "a loop": (lambda x: jax.lax.scan(lambda c, v: (v, c), x[0], x)[1], ""),
}
NUMBERED = {
    "positions": lambda x: x + jnp.arange(len(x), dtype=x.dtype)[:, None, None],
    "positions from NumPy": lambda x: x * np.arange(len(x), dtype=np.float32)[:, None, None],
    "noise": lambda x: x + jax.random.normal(KEY, x.shape).astype(x.dtype),
    "all but the first": lambda x: jnp.where(jnp.arange(len(x))[:, None, None] > 0, x, 0),
}
BY_ROW = {
    "zeros of its shape": lambda x: jnp.concatenate([x, jnp.zeros_like(x)], -1)[..., :HIDDEN] + 1,
    "positions of features": lambda x: (
        x * jnp.broadcast_to(jnp.arange(HIDDEN, dtype=x.dtype), x.shape)
    ),
    "noise of features": lambda x: x + jnp.broadcast_to(jax.random.normal(KEY, (HIDDEN,)), x.shape),
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3),
    "softmax": jax.nn.softmax,
    "joined rows": lambda x: (x.reshape(-1, HIDDEN) @ jnp.eye(HIDDEN)).reshape(x.shape),
    "reversed features": lambda x: jnp.cumsum(x[..., ::-1], -1),
    "shifted features": lambda x: jnp.roll(x, 1, -1),
    "table": lambda x: jnp.eye(HIDDEN, dtype=x.dtype)[(jnp.abs(x[..., 0]) % HIDDEN).astype(int)],
    "outer product": lambda x: jnp.einsum("...d,...e->...de", x, x).sum(-1),
    "sorted": lambda x: jnp.sort(jax.nn.relu(x), -1),
}


def projecting(function):
    class Projecting(SmallCell):
        def project(self, xs):
            return function(dot(xs, self.w_x)), xs

    return registered(Projecting)


@pytest.mark.parametrize(
    ("function", "primitive"),
    [*ACROSS.values(), *((function, None) for function in BY_ROW.values())],
    ids=[*ACROSS, *BY_ROW],
)
def test_a_projection_is_of_each_step_by_itself(function, primitive):
    cell = projecting(function)(jnp.eye(HIDDEN), jnp.eye(HIDDEN), jnp.ones(1))
    explanation = gru_jax.explain(cell, jnp.ones((TIME, BATCH, HIDDEN)))
    if primitive is None:
        assert explanation.implementation == "xla", explanation
        return
    assert explanation.implementation == "scan"
    (reason,) = explanation.reasons["xla"]
    assert f"{primitive} in project computes across steps or sequences" in reason


@pytest.mark.parametrize("function", NUMBERED.values(), ids=NUMBERED)
def test_a_projection_does_not_read_the_number_of_a_step(function):
    cell = projecting(function)(jnp.eye(HIDDEN), jnp.eye(HIDDEN), jnp.ones(1))
    (reason,) = gru_jax.explain(cell, jnp.ones((TIME, BATCH, HIDDEN))).reasons["xla"]
    assert "in project reads what differs from step to step" in reason


def test_an_output_is_of_each_state_by_itself():
    @registered
    class Centred(SmallCell):
        def output(self, state):
            return state - state.mean(0, keepdims=True)

    cell = Centred(jnp.eye(HIDDEN), jnp.eye(HIDDEN), jnp.ones(1))
    (reason,) = gru_jax.explain(cell, jnp.ones((TIME, BATCH, HIDDEN))).reasons["xla"]
    assert "reduce_sum in output computes across steps or sequences" in reason


@pytest.mark.parametrize(
    ("cell_type", "extra", "reason"),
    [
        (MaskedWeights, "flags", "the parameter extra is an array of bool"),
        (Heads, "matrix", "the state has 2 axes after those of the batch"),
        (NarrowBias, "one number", None),
        (RawInputs, "one number", None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_unusual_parameters_states_and_inputs(cell_type, extra, reason, dtype):
    keys = jax.random.split(KEY, 4)
    matrix = jax.random.normal(keys[0], (HIDDEN, HIDDEN)) / 2
    extras = {"flags": matrix > 0, "matrix": 2 * matrix, "one number": matrix[0, :1]}
    cell = cell_type(matrix, jax.random.normal(keys[1], (HIDDEN, HIDDEN)) / 2, extras[extra])
    xs = jax.random.normal(keys[2], (TIME, BATCH, HIDDEN)).astype(dtype)
    explanation = gru_jax.explain(cell, xs)
    assert explanation.implementation == ("xla" if reason is None else "scan")
    assert reason is None or reason in explanation.reasons["xla"][0]

    def gradient(implementation):
        def loss(arrays, xs):
            ys = gru_jax.unroll(
                dataclasses.replace(cell, **arrays), xs, implementation=implementation
            )[1]
            return jnp.square(ys.astype(jnp.float32)).sum()

        named = {"w_x": cell.w_x, "w_h": cell.w_h, "extra": cell.extra}
        arrays = {name: leaf for name, leaf in named.items() if leaf.dtype == jnp.float32}
        return jax.grad(loss, (0, 1))(arrays, xs)

    by_default, expected = gradient(None), gradient("scan")
    chex.assert_trees_all_equal_shapes_and_dtypes(by_default, expected)
    # Rounded to 8 bits at each step, which the two do in another order.
    tolerance = 1e-5 if dtype == "float32" else 0.05
    chex.assert_trees_all_close(
        *jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (by_default, expected)),
        rtol=tolerance,
        atol=tolerance,
    )


stop = jax.lax.stop_gradient
RESERVOIR = np.asarray(jax.random.normal(KEY, (HIDDEN, HIDDEN)) / 2)
STEPS = {
    "a stopped operand": lambda w, v, h, x, affine: h / 2 + jnp.tanh(*affine(stop(h), w, (x,))),
    "stopped weights": lambda w, v, h, x, affine: jnp.tanh(*affine(h, stop(w), (x,))),
    "a stopped addend": lambda w, v, h, x, affine: jnp.tanh(*affine(h, w, (stop(x),))),
    "a stopped result": lambda w, v, h, x, affine: h / 2 + jnp.tanh(stop(*affine(h, w, (x,)))),
    "constant weights": lambda w, v, h, x, affine: jnp.tanh(
        *affine(h, jnp.asarray(RESERVOIR, h.dtype), (x,))
    ),
    "masked weights": lambda w, v, h, x, affine: jnp.tanh(
        *affine(h, jnp.where(RESERVOIR > 0, w, 0), (x,))
    ),
    "the same weights twice": lambda w, v, h, x, affine: jnp.tanh(
        *affine(jnp.tanh(*affine(h, w, (x,))), w, (None,))
    ),
    "transposed weights": lambda w, v, h, x, affine: jnp.tanh(
        *affine(jnp.tanh(*affine(h, w, (x,))), w.T, (None,))
    ),
    "orthogonal weights": lambda w, v, h, x, affine: jnp.tanh(
        *affine(h, jnp.linalg.qr(w)[0], (x,))
    ),
    "weights of low rank": lambda w, v, h, x, affine: jnp.tanh(
        *affine(*affine(h, w[:, :2], (None,)), v[:2], (x,))
    ),
    "normalised weights": lambda w, v, h, x, affine: jnp.tanh(
        *affine(h, w / jnp.linalg.norm(w, axis=0, keepdims=True), (x,))
    ),
    "no matmul": lambda w, v, h, x, affine: jax.nn.sigmoid(x) * h + jnp.tanh(x),
}


@pytest.mark.parametrize("combine", STEPS.values(), ids=STEPS)
@jax.enable_x64(True)
def test_gradients_of_unusual_steps(combine):
    @registered
    class Unusual(SmallCell):
        def combine(self, state, projected, affine):
            return combine(self.w_h, self.extra, state, projected[0], affine)

    keys = jax.random.split(KEY, 5)
    matrices = (jax.random.normal(key, (HIDDEN, HIDDEN), "float64") / 2 for key in keys[:3])
    cell, xs = Unusual(*matrices), jax.random.normal(keys[3], (TIME, BATCH, HIDDEN), "float64")
    starts = jax.random.bernoulli(keys[4], 0.3, (TIME, BATCH))
    assert gru_jax.explain(cell, xs, starts=starts).implementation == "xla"

    def gradient(implementation):
        def loss(cell, xs):
            ys = gru_jax.unroll(cell, xs, starts=starts, implementation=implementation)[1]
            return (ys**3).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(cell, xs)

    chex.assert_trees_all_close(gradient(None), gradient("scan"), rtol=1e-10, atol=1e-12)
