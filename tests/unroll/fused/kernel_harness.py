"""Unrolling by given fused kernels on this machine, whatever device they are for."""

import contextlib
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from gru_jax._unroll import dispatch
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.reference_kernels import INTERFACE
from gru_jax._unroll.fused.transforms import with_transform_rules
from tests.cells.cases import Outcome, named


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ReluGRU(gru_jax.GRUParams):
    """A GRU with another activation of n, whose fields are those of :class:`GRUParams`."""

    def combine(self, state, projected, affine):
        r, z, n = projected
        u_r, u_z, u_n = affine(state, self.w_h, (r, z, self.b_hn))
        r, z = jax.nn.sigmoid(u_r), jax.nn.sigmoid(u_z)
        n = jax.nn.relu(n + r * u_n)
        return n + z * (state - n)


def as_relu_gru(params):
    """A :class:`ReluGRU` with the parameters of a GRU."""
    return ReluGRU(
        **{field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    )


@contextlib.contextmanager
def unroll_by(kernels, matmul_dtype=None):
    """``unroll`` by ``kernels``, whose matmuls run in ``matmul_dtype``, or in the inputs' dtype."""
    kernels = with_transform_rules(kernels, INTERFACE)

    def run(spec, cell, inputs, h0, *, reverse):
        dtype = matmul_dtype or inputs.xs.dtype
        return fused.run(
            spec, cell, inputs, h0, reverse=reverse, kernels=kernels, matmul_dtype=dtype
        )

    implementation = types.SimpleNamespace(
        unsupported_reasons=lambda spec: [], run=run, describe=fused.describe
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.IMPLEMENTATIONS, "fused", implementation)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation="fused")
    jax.clear_caches()


def with_float32_carry(problem, unroll, **controls):
    """The outcome for inputs in bfloat16 and a carry in float32, the default for such inputs."""

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
