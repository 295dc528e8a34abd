"""Custom affine cells: the backward pass written for one form of equations fits others."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll.xla import tuning as tuning_module
from gru_jax._unroll.xla.tuning import Tuning
from gru_jax.cells import add_bias, dot
from tests.assert_trees import assert_close
from tests.slow import slow
from tests.unroll.tuning_overrides import SAVING_PREACTIVATIONS, override

TIME, BATCH, INPUT, HIDDEN = 7, 2, 3, 4


def cell_class(cell_type):
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cell_type))


def zeros(w_h, batch_shape):
    return jnp.zeros((*batch_shape, w_h.shape[0]), w_h.dtype)


@cell_class
class WithABias(gru_jax.AffineCell):
    """Weights and a bias, and a state that begins with zeros."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array

    def initial_state(self, batch_shape=()):
        return zeros(self.w_h, batch_shape)


@cell_class
class MinimalGatedUnit(WithABias):
    """Zhou et al. 2016 (arXiv 1603.09420): the operand of its second matmul is computed."""

    def project(self, xs):
        return jnp.split(add_bias(dot(xs, self.w_x), self.b), 2, axis=-1)

    def combine(self, state, projected, affine):
        u_f, u_n = jnp.split(self.w_h, 2, axis=-1)
        (f,) = affine(state, u_f, projected[:1])
        f = jax.nn.sigmoid(f)
        (n,) = affine(f * state, u_n, projected[1:])
        n = jnp.tanh(n)
        return n + f * (state - n)


class Averaged(NamedTuple):
    h: jax.Array
    mean: jax.Array
    last: jax.Array


@cell_class
class Averager(gru_jax.AffineCell):
    """A state with leaves that no matmul reads, one of which no step reads; a scaled output."""

    w_x: jax.Array
    w_h: jax.Array
    h0: jax.Array
    scale: jax.Array

    def initial_state(self, batch_shape=()):
        nothing = zeros(self.w_h, batch_shape)
        return Averaged(jnp.broadcast_to(self.h0, nothing.shape), nothing, nothing)

    def project(self, xs):
        return {"h": dot(xs, self.w_x)}

    def combine(self, state, projected, affine):
        (h,) = affine(state.h, self.w_h, (projected["h"],))
        h = jnp.tanh(h)
        return Averaged(h, state.mean + 0.3 * (h - state.mean), state.h)

    def output(self, state):
        return jnp.broadcast_to(self.scale, state.h.shape) * state.h


@cell_class
class OutputOfTheMean(Averager):
    """Its output depends only on a leaf that no matmul reads."""

    def output(self, state):
        return jnp.broadcast_to(self.scale, state.mean.shape) * jnp.tanh(state.mean)


@cell_class
class SharedInput(WithABias):
    """The projected input is an addend, twice, and read elementwise; a vector is an addend, too."""

    def project(self, xs):
        return dot(xs, self.w_x)

    def combine(self, state, projected, affine):
        weights = jnp.concatenate([self.w_h, -self.w_h, self.w_h, 2 * self.w_h], axis=-1)
        a, b, c, d = affine(state, weights, (projected, projected, self.b, None))
        return jnp.tanh(a + c * d) + jax.nn.sigmoid(b) * projected


@cell_class
class PlainUnit(gru_jax.Cell):
    """No affine cell."""

    w_x: jax.Array
    w_h: jax.Array

    def initial_state(self, batch_shape=()):
        return zeros(self.w_h, batch_shape)

    def project(self, xs):
        return dot(xs, self.w_x)

    def recur(self, state, projected):
        return jnp.tanh(projected + dot(state, self.w_h))


GATES = {
    MinimalGatedUnit: 2,
    Averager: 1,
    OutputOfTheMean: 1,
    SharedInput: 1,
    PlainUnit: 1,
}
AFFINE = [cell_type for cell_type in GATES if issubclass(cell_type, gru_jax.AffineCell)]


def sample_inputs(cell_type, dtype="float64"):
    """A cell, inputs, and a state with no two elements alike."""
    random = np.random.default_rng(0)
    width = GATES[cell_type] * HIDDEN
    shapes = {"w_x": (INPUT, width), "w_h": (HIDDEN, width), "b": (width,)}
    names = [item.name for item in dataclasses.fields(cell_type)]
    weights = {name: random.uniform(-1, 1, shapes.get(name, (HIDDEN,))) for name in names}
    cell = cell_type(**{name: jnp.asarray(value, dtype) for name, value in weights.items()})
    state = jax.tree.map(
        lambda leaf: jnp.asarray(random.uniform(-1, 1, leaf.shape), dtype),
        gru_jax.initial_state(cell, (BATCH,)),
    )
    return cell, jnp.asarray(random.normal(size=(TIME, BATCH, INPUT)), dtype), state


def controls():
    random = np.random.default_rng(1)
    return {"lengths": np.array([7, 5]), "starts": random.uniform(size=(TIME, BATCH)) < 0.3}


# The cell's class is an argument because jax.jit compares dataclasses by their number of fields.
@functools.partial(jax.jit, static_argnames=("cell_type", "implementation", "chunks"))
def evaluate(inputs, controls, *, cell_type, implementation, chunks):
    """Values, and gradients of a loss in which every element has a weight of its own.

    One chunk forward, or several in reverse, with gates that are recomputed.
    """
    assert type(inputs[0]) is cell_type

    def run(*inputs):
        return gru_jax.unroll(
            *inputs,
            reverse=chunks,
            implementation=implementation,
            checkpoint="step" if chunks else None,
            **controls,
        )

    outcome, pull = jax.vjp(run, *inputs)
    weights = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), outcome
    )
    return outcome, pull(weights)


@pytest.mark.parametrize(
    ("cell_type", "chunks"),
    [
        (MinimalGatedUnit, False),
        (Averager, True),
        (OutputOfTheMean, False),
        (SharedInput, True),
        slow(MinimalGatedUnit, True),
        slow(Averager, False),
        slow(OutputOfTheMean, True),
        slow(SharedInput, False),
    ],
    ids=lambda value: {False: "one chunk", True: "chunks"}.get(value),
)
@jax.enable_x64(True)
def test_both_implementations_agree(cell_type, chunks, monkeypatch):
    tuning = SAVING_PREACTIVATIONS
    if chunks:
        tuning = override(Tuning(), chunk={"elements": 1, "min_rows": 3 * BATCH})
    # Every pair of arguments is traced once, with the tuning that it needs.
    monkeypatch.setattr(tuning_module, "CPU_TUNING", tuning)
    by_xla, by_scan = (
        evaluate(
            sample_inputs(cell_type),
            controls(),
            cell_type=cell_type,
            implementation=implementation,
            chunks=chunks,
        )
        for implementation in ("xla", "scan")
    )
    assert_close(by_xla, by_scan, "float64")
    _, gradients = by_scan
    for leaf in jax.tree.leaves(gradients[:2]):
        assert jnp.abs(leaf).max() > 1e-3


@pytest.mark.parametrize("cell_type", AFFINE)
@jax.enable_x64(True)
def test_forward_mode(cell_type):
    cell, xs, state = sample_inputs(cell_type)

    def tangents(implementation):
        def run(*inputs):
            return gru_jax.unroll(*inputs, implementation=implementation)

        return jax.jit(lambda *inputs: jax.jvp(run, inputs, inputs))(cell, xs, state)

    assert_close(tangents("xla"), tangents("scan"), "float64")


def test_a_plain_cell_runs_as_a_scan():
    cell, xs, state = sample_inputs(PlainUnit, "float32")
    expected = gru_jax.unroll(cell, xs, state, implementation="scan")
    assert_close(gru_jax.unroll(cell, xs, state), expected, "float32")
    with pytest.raises(NotImplementedError, match="PlainUnit"):
        gru_jax.unroll(cell, xs, state, implementation="xla")
