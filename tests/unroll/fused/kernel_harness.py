"""Unrolling by a pair of kernels that runs on this machine, whatever device it is meant for."""

import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from gru_jax._unroll import api
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.transform_rules import transformable
from tests.cells.cases import Outcome, named


@contextlib.contextmanager
def unroll_by(kernels, operands=None):
    """``unroll`` by ``kernels``, which multiply in ``operands``, or in the inputs' dtype."""
    pair = transformable(kernels)

    def run(cell, steps, state, *, reverse, memory):
        del memory
        dtype = operands or steps.xs.dtype
        return fused.run(cell, steps, state, reverse=reverse, kernels=pair, operands=dtype)

    implementation = types.SimpleNamespace(unsupported=lambda call: None, run=run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(api.IMPLEMENTATIONS, "fused", implementation)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation="fused")
    jax.clear_caches()


def with_wide_carry(problem, unroll, **controls):
    """The outcome for inputs in bfloat16 and a carry in float32, as it is where none is given."""

    @jax.jit
    def evaluate(cell, xs, state, cotangents):
        def run(cell, xs, state):
            return unroll(cell, xs.astype(jnp.bfloat16), state, **controls)

        outputs, pull = jax.vjp(run, cell, xs, state)
        return outputs, pull(cotangents)

    d_ys = jnp.asarray(problem.cotangent_ys, jnp.bfloat16)
    cotangents = jnp.asarray(problem.cotangent_state[0], jnp.float32), d_ys
    (last, ys), gradients = evaluate(*problem.inputs("float32"), cotangents)
    assert (last.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)
    return Outcome((last,), ys, named(*gradients))
