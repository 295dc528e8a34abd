"""Cells that keep the rule of AffineCell, and cells that break it: the default gradient is right.

Steps are sampled from a grammar. A step of valid parts runs by ``"xla"``; one with an invalid part
runs by ``"scan"``, and :func:`gru_jax.explain` names the part.
"""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll import log
from gru_jax.cells import AffineCell, dot
from tests.assert_trees import assert_close
from tests.slow import slow

TIME, BATCH, INPUT, HIDDEN = 5, 3, 2, 4
KEY = jax.random.key(7)

UNARY = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "sin": jnp.sin,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "clipped": lambda x: jnp.clip(x, -0.9, 0.9),
    "where": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "scaled by unit": lambda x: x * jnp.broadcast_to(jnp.linspace(0.5, 1, HIDDEN), x.shape),
    "halved": lambda x: x / 2 + jnp.zeros(x.shape, x.dtype),
}
BINARY = {"add": jnp.add, "multiply": jnp.multiply, "maximum": jnp.maximum, "hypot": jnp.logaddexp}
ADDENDS = ("projected", "bias", "none", "transformed projected")
NOT_ELEMENTWISE = {
    "softmax": jax.nn.softmax,
    "roll": lambda x: jnp.roll(x, 1, -1),
    "layer norm": lambda x: x - jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape),
    "cumsum": lambda x: jnp.cumsum(x, -1) / 4,
    "flip": lambda x: jnp.flip(x, -1),
    "sort": lambda x: jnp.sort(x, -1),
    "across the batch": lambda x: x - jnp.broadcast_to(x.max(0), x.shape),
    "random constant": lambda x: jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), x, 0.0),
    "counted constant": lambda x: x * jax.lax.broadcasted_iota(x.dtype, x.shape, 0) / 4,
}
INVALID = (*NOT_ELEMENTWISE, "parameter", "parameter in a matmul", "addend of state")
INVALID += ("addend of a preactivation", "narrow projected leaf", "concatenated operand")
INVALID += ("narrow leaf, implicitly",)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SampledCell(AffineCell):
    """A step that is a list of parts; each adds a value to those that the later ones may read."""

    w_x: jax.Array
    w_h: jax.Array  # (matmuls, H, H)
    b: jax.Array
    gain: jax.Array
    parts: tuple[Any, ...] = dataclasses.field(metadata={"static": True})

    def initial_state(self, batch_shape=()):
        zeros = jnp.zeros((*batch_shape, HIDDEN), self.w_x.dtype)
        return zeros, zeros

    def project(self, xs):
        first, second = jnp.split(dot(xs, self.w_x), 2, axis=-1)
        return first, second, first[..., :1]

    def combine(self, state, projected, affine):
        h, c = state
        first, second, narrow = projected
        values = [h, c, second]
        for index, (name, one, other) in enumerate(self.parts):
            x, y, w = values[one], values[other], self.w_h[index]
            match name:
                case "projected":
                    (value,) = affine(x, w, (first,))
                case "bias":
                    value, _ = affine(x, jnp.concatenate([w, w], -1), (self.b, None))
                case "none":
                    value = sum(affine(x, jnp.concatenate([w, -2 * w], -1), (None, None)))
                case "transformed projected":
                    (value,) = affine(x, w, (jax.nn.softmax(first),))
                case "parameter":
                    value = x * jnp.broadcast_to(self.gain, x.shape)
                case "parameter in a matmul":
                    value = dot(x, w)
                case "addend of state":
                    (value,) = affine(x, w, (first + jnp.sin(h),))
                case "addend of a preactivation":
                    (inner,) = affine(x, w, (None,))
                    (value,) = affine(y, w, (inner,))
                case "narrow projected leaf":
                    value = x * jnp.broadcast_to(narrow, x.shape)
                case "narrow leaf, implicitly":
                    value = x * narrow
                case "concatenated operand":
                    (value,) = affine(jnp.concatenate([x, y], -1), jnp.concatenate([w, w]), (None,))
                case _ if name in BINARY:
                    value = BINARY[name](x, y)
                case _:
                    value = {**UNARY, **NOT_ELEMENTWISE}[name](x)
            values.append(value)
        new = values[3:]
        c = 0.5 * c + jnp.tanh(sum(new[1:], new[0]))
        return jnp.tanh(c + 0.3 * second), c

    def output(self, state):
        return state[0]


def sample_cell(seed, invalid=None):
    """A cell of up to five valid parts, with an invalid one among them if it is named."""
    random = np.random.default_rng(seed)
    valid = (*UNARY, *BINARY, *ADDENDS, *ADDENDS)
    names = [str(name) for name in random.choice(valid, random.integers(2, 6))]
    if invalid is not None:
        names.insert(int(random.integers(len(names) + 1)), invalid)
    parts = tuple(
        (name, *map(int, random.integers(3 + index, size=2))) for index, name in enumerate(names)
    )
    shapes = [(INPUT, 2 * HIDDEN), (len(parts), HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN,)]
    weights = (jnp.asarray(random.uniform(-1, 1, shape), "float64") for shape in shapes)
    return SampledCell(*weights, parts=parts)


def gradient(cell, implementation):
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(TIME, BATCH, INPUT)))

    def loss(cell, xs):
        h_last, ys = gru_jax.unroll(cell, xs, implementation=implementation)
        weights = jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
        return (weights * ys).sum() + sum(leaf.sum() for leaf in h_last)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(cell, xs)


def explained(cell):
    return gru_jax.explain(cell, jax.ShapeDtypeStruct((TIME, BATCH, INPUT), "float64"))


def check_valid(seed):
    cell = sample_cell(seed)
    assert explained(cell).implementation == "xla", cell.parts
    assert_close(gradient(cell, None), gradient(cell, "scan"), "float64")


@pytest.mark.parametrize("seed", [0, 1, 2, slow(3), slow(4), slow(5)])
@jax.enable_x64(True)
def test_a_step_of_valid_parts_runs_by_xla(seed):
    check_valid(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6, 36, 10))
@jax.enable_x64(True)
def test_many_steps_of_valid_parts(first):
    for seed in range(first, first + 10):
        check_valid(seed)


@pytest.mark.parametrize("seeds", [range(6), slow(range(6, 20))], ids=["some", "more"])
@pytest.mark.parametrize("invalid", INVALID)
@jax.enable_x64(True)
def test_a_step_with_an_invalid_part_runs_by_scan(invalid, seeds):
    """In any place of any step, and the reason is the same for a request and in explain."""
    for seed in seeds:
        explanation = explained(sample_cell(seed, invalid))
        assert explanation.implementation == "scan", sample_cell(seed, invalid).parts
    cell = sample_cell(0, invalid)
    (reason,) = explanation.reasons["xla"]
    assert "SampledCell" in reason
    with pytest.raises(NotImplementedError, match=r"xla.*SampledCell breaks the rule"):
        gradient(cell, "xla")


@pytest.mark.slow
@pytest.mark.parametrize("invalid", INVALID)
@jax.enable_x64(True)
def test_the_default_gradient_of_an_invalid_step_is_right(invalid):
    """By the definition of the scan, and compared with differences of the values."""
    cell = sample_cell(1, invalid)
    (value, (d_cell, _)), step = gradient(cell, None), 1e-6
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), cell)
    moved = [jax.tree.map(lambda w, d, s=s: w + s * d, cell, direction) for s in (step, -step)]
    high, low = (gradient(cell, None)[0] for cell in moved)
    along = sum(jax.tree.leaves(jax.tree.map(lambda d, g: (d * g).sum(), direction, d_cell)))
    assert jnp.isfinite(value)
    np.testing.assert_allclose((high - low) / (2 * step), along, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("invalid", "named"),
    [
        ("softmax", "reduce_max"),
        ("parameter", "the parameter gain is read outside affine"),
        ("random constant", "a constant of the state's shape is made by"),
        ("addend of state", "an addend of affine depends on the state"),
        ("parameter in a matmul", "dot_general"),
    ],
)
@jax.enable_x64(True)
def test_the_reason_names_the_primitive_or_the_parameter(invalid, named):
    (reason,) = explained(sample_cell(2, invalid)).reasons["xla"]
    assert named in reason


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PooledRNN(AffineCell):
    """Its input is several items of features, over which it takes the mean."""

    num_feature_axes = 2
    w_x: jax.Array
    w_h: jax.Array

    def initial_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, HIDDEN))

    def project(self, xs):
        return dot(xs.mean(-2), self.w_x)

    def combine(self, state, projected, affine):
        (total,) = affine(state, self.w_h, (projected,))
        return jnp.tanh(total)


def test_an_input_with_several_feature_axes_runs_by_scan():
    keys = jax.random.split(KEY, 3)
    cell = PooledRNN(
        jax.random.normal(keys[0], (INPUT, HIDDEN)), jax.random.normal(keys[1], (HIDDEN, HIDDEN))
    )
    xs = jax.random.normal(keys[2], (TIME, BATCH, 6, INPUT))
    explanation = gru_jax.explain(cell, xs)
    assert explanation.implementation == "scan"
    assert explanation.reasons["xla"] == (
        "PooledRNN has 2 feature axes, and only one is supported",
    )

    def loss(cell, xs, implementation):
        return jnp.square(gru_jax.unroll(cell, xs, implementation=implementation)[1]).sum()

    by_default, expected = (jax.grad(loss, (0, 1))(cell, xs, name) for name in (None, "scan"))
    assert_close(by_default, expected, "float32")


def make_cell_around(function, method):
    """A plain RNN, one of whose methods applies a function that is not a part of it."""

    def scaled(name, array):
        return function(array) if name == method else array

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class ScaledRNN(AffineCell):
        w_x: jax.Array
        w_h: jax.Array

        def initial_state(self, batch_shape=()):
            return scaled("initial_state", jnp.ones((*batch_shape, HIDDEN)))

        def project(self, xs):
            return scaled("project", dot(xs, self.w_x))

        def combine(self, state, projected, affine):
            (total,) = affine(state, self.w_h, (projected,))
            return jnp.tanh(scaled("combine", total))

        def output(self, state):
            return scaled("output", state)

    keys = jax.random.split(KEY, 2)
    return ScaledRNN(
        jax.random.normal(keys[0], (INPUT, HIDDEN)), jax.random.normal(keys[1], (HIDDEN, HIDDEN))
    )


METHODS = ("initial_state", "project", "combine", "output")


@jax.custom_vjp
def clip_gradient(x):
    return x


clip_gradient.defvjp(lambda x: (x, None), lambda _, d: (jnp.clip(d, -0.05, 0.05),))


@jax.custom_jvp
def centre_gradient(x):
    return x


@centre_gradient.defjvp
def _(primals, tangents):
    (d,) = tangents
    return primals[0], d - d.mean(axis=-1, keepdims=True)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(4 * x) / 4


straight_through.defjvp(lambda x, d: (straight_through(*x), 2 * d[0] * x[0]))


@jax.custom_jvp
def times_integer(x, count):
    return x * count.astype(x.dtype)


@times_integer.defjvp
def _(primals, tangents):
    return times_integer(*primals), 2 * tangents[0] * primals[1].astype(tangents[0].dtype)


def times_its_sign(x):
    return times_integer(x, jnp.sign(x).astype(int))


@pytest.mark.parametrize(
    ("function", "method", "reason"),
    [
        *[(clip_gradient, method, "uses jax.custom_vjp") for method in METHODS],
        (jax.jit(clip_gradient), "combine", "uses jax.custom_vjp"),
        (centre_gradient, "combine", "reduce_sum between its matmuls"),
        (straight_through, "combine", None),
        (times_its_sign, "combine", None),
        (jax.nn.softplus, "combine", None),
        (jax.nn.relu, "output", None),
        # A linear map of the cotangents of all steps.
        (centre_gradient, "output", None),
    ],
)
def test_a_derivative_of_ones_own_is_kept(function, method, reason):
    xs = jax.random.normal(KEY, (TIME, BATCH, INPUT))
    cell = make_cell_around(function, method)
    explanation = gru_jax.explain(cell, xs)
    assert explanation.implementation == ("xla" if reason is None else "scan")
    assert reason is None or reason in explanation.reasons["xla"][0]

    @functools.partial(jax.jit, static_argnums=2)
    def gradient(cell, xs, implementation):
        def loss(cell, xs):
            return jnp.square(gru_jax.unroll(cell, xs, implementation=implementation)[1]).sum()

        return jax.grad(loss, (0, 1))(cell, xs)

    assert_close(gradient(cell, xs, None), gradient(cell, xs, "scan"), "float32")


@pytest.mark.parametrize("transformation", ["jit of grad", slow("grad"), slow("vmap of grad")])
@pytest.mark.parametrize("method", METHODS)
def test_a_value_traced_outside_of_the_cell_has_its_gradient(method, transformation):
    xs = jax.random.normal(KEY, (TIME, BATCH, INPUT))
    starts = jnp.zeros((TIME, BATCH), bool).at[2].set(True)
    seen = []

    def loss(outer, implementation):
        cell = make_cell_around(lambda array: array * outer, method)
        seen.append(gru_jax.explain(cell, xs).reasons["xla"])
        outputs = gru_jax.unroll(cell, xs, starts=starts, implementation=implementation)[1]
        return jnp.square(outputs).sum()

    def gradient(implementation):
        of_one = jax.grad(lambda outer: loss(outer, implementation))
        transform = {"jit of grad": jax.jit, "grad": lambda f: f, "vmap of grad": jax.vmap}
        at = jnp.array([0.7, 0.3]) if transformation == "vmap of grad" else jnp.array(0.7)
        return transform[transformation](of_one)(at)

    expected = gradient("scan")
    assert (jnp.abs(expected) > 0.1).all()
    assert_close(gradient(None), expected, "float32")
    assert all("reads a traced value that is no parameter" in reason for (reason,) in seen)
    with pytest.raises(NotImplementedError, match="reads a traced value"):
        gradient("xla")


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_from_outside_of_the_cell_is_no_reason(method):
    xs = jax.random.normal(KEY, (TIME, BATCH, INPUT))
    cell = make_cell_around(lambda array: array * np.float32(0.7), method)
    assert gru_jax.explain(cell, xs).implementation == "xla"


def test_the_log_tells_of_the_slow_path_once(caplog, monkeypatch):
    monkeypatch.setattr(log, "_logged", set())
    xs = jnp.ones((2, 1, INPUT))
    with jax.enable_x64(True):
        cell = sample_cell(0, "softmax")
    with caplog.at_level(logging.INFO, logger="gru_jax"):
        for _ in range(2):
            jax.clear_caches()
            gru_jax.unroll(jax.tree.map(jnp.float32, cell), xs)
    (record,) = caplog.records
    assert "SampledCell breaks the rule" in record.getMessage()
    assert "gru_jax.explain" in record.getMessage()


def test_library_cells_are_valid():
    xs = jax.ShapeDtypeStruct((3, 2, INPUT), jnp.float32)
    for init in (gru_jax.init, gru_jax.init_lstm, gru_jax.init_rnn):
        cell = init(KEY, INPUT, HIDDEN)
        assert gru_jax.explain(cell, xs).implementation == "xla"
    before = gru_jax.init(KEY, INPUT, HIDDEN, reset="before")
    assert gru_jax.explain(before, xs).implementation == "xla"


@pytest.mark.parametrize(
    ("columns", "addends", "message"),
    [
        (10, 3, "10 columns, which cannot be split into 3 equal pieces"),
        (8, 0, "8 columns, which cannot be split into 0"),
    ],
)
def test_uneven_addends(columns, addends, message):
    with pytest.raises(ValueError, match=message):
        gru_jax.cells.affine(jnp.ones((2, 4)), jnp.ones((4, columns)), (None,) * addends)


def test_an_addend_of_another_width():
    addends = (None, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"addends\[1\] has shape \(2, 5\).*to be 4"):
        gru_jax.cells.affine(jnp.ones((2, 4)), jnp.ones((4, 8)), addends)
