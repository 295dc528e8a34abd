"""The annotations are true: jaxtyping and beartype check every call of a tour of the library."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow import slow

SETUP = """
from jaxtyping import install_import_hook

with install_import_hook("gru_jax", "beartype.beartype"):
    import gru_jax

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

key = jax.random.key(0)

# The checker works: it reports an argument that does not match its annotation.
with pytest.raises(TypeCheckError):
    gru_jax.init(key, "three", 4)
"""

QUICK = """
params = gru_jax.init(key, 3, 4, learned_h0=True)
xs, flags = jnp.ones((7, 2, 3)), jnp.ones((7, 2), bool)
h = gru_jax.step(params, gru_jax.initial_state(params, (2,)), xs[0])
options = dict(lengths=jnp.full(2, 5), mask=flags, starts=flags)
gru_jax.unroll(params, xs, h, **options)
for window in gru_jax.tbptt_windows(xs, 4, **options):
    jax.eval_shape(lambda: gru_jax.unroll(params, h0=h, **window))
gru_jax.explain(params, xs, starts=jnp.zeros((7, 2)), checkpoint=3)
"""

TOUR = """
with install_import_hook("gru_jax", "beartype.beartype"):
    import gru_jax.nn

from flax import nnx

cells = [(gru_jax.init, ()), (gru_jax.init_lstm, (2,)), (gru_jax.init_rnn, (2, 3))]
for (init, batch), dtype in zip(cells, (jnp.float32, jnp.bfloat16, jnp.float16)):
    params = init(key, 3, 4, dtype=dtype, learned_h0=True)
    xs = jnp.ones((7, *batch, 3), dtype)
    flags = jnp.ones((7, *batch), bool)
    options = dict(lengths=jnp.full(batch, 5), mask=flags, starts=flags)
    h = gru_jax.initial_state(params, batch)
    h = gru_jax.step(params, h, xs[0])
    for checkpoint in (None, "step", "chunk", 3):
        h, ys = gru_jax.unroll(params, xs, h, checkpoint=checkpoint, **options)
    gru_jax.unroll_truncated(params, xs, window=2, **options)
    for window in gru_jax.tbptt_windows(xs, 2, **options):
        h, ys = gru_jax.unroll(params, h0=h, **window)
    jax.grad(lambda params: gru_jax.unroll(params, xs)[1].astype(jnp.float32).sum())(params)
stack = gru_jax.init_stack(key, 3, 4, num_layers=2, bidirectional=True)
gru_jax.unroll_stack(stack, jnp.ones((5, 2, 3)), dropout=0.5, key=key, every_layer=True)
model = gru_jax.nn.GRU(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
model(jnp.ones((2, 5, 3)), seq_lengths=jnp.array([1, 5]), return_carry=True)
nnx.RNN(gru_jax.nn.GRUCell(3, 4, rngs=nnx.Rngs(0)))(jnp.ones((2, 5, 3)))
"""


@pytest.mark.parametrize("calls", [QUICK, slow(TOUR)], ids=["one cell", "the library"])
def test_annotations_hold_in_calls_of(calls):
    process = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SETUP + calls],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
