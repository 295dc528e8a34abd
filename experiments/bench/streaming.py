"""One step at a time: a jitted step, compared with a call into JAX that computes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gru_jax
from experiments.bench.timing import Summary, time_interleaved


def time_batches(seconds: float) -> dict[str, dict[str, Summary]]:
    """Times steps at batch 1 and 32."""
    input_size, hidden_size = 64, 128
    return {
        f"batch {batch}, {input_size} to {hidden_size}": time_steps(
            batch, input_size, hidden_size, seconds / 2
        )
        for batch in (1, 32)
    }


def time_steps(batch: int, input_size: int, hidden_size: int, seconds: float) -> dict[str, Summary]:
    """Times a jitted step with a donated state: each call takes the state of the call before.

    "dispatch" is a jitted function of the same arguments that returns the state unchanged: its
    time is the overhead of a call. "matmul only" has only the matmuls of a step.
    """
    params = gru_jax.init(jax.random.key(0), input_size, hidden_size)
    x = jax.random.normal(jax.random.key(1), (batch, input_size))

    def dispatch(params: gru_jax.GRUParams, h: jax.Array, x: jax.Array) -> jax.Array:
        del params, x
        return h

    def multiply(params: gru_jax.GRUParams, h: jax.Array, x: jax.Array) -> jax.Array:
        preactivations = x @ params.w_x + h @ params.w_h
        return preactivations[:, :hidden_size] * 0.5

    steps = {"gru_jax.step": gru_jax.step, "matmul only": multiply, "dispatch": dispatch}
    runs = {name: _stream(step, params, x, hidden_size) for name, step in steps.items()}
    return time_interleaved(runs, seconds=seconds)


def _stream(
    step: Callable[..., jax.Array], params: gru_jax.GRUParams, x: jax.Array, hidden_size: int
) -> Callable[[], Any]:
    # Unused arguments are kept, so that all functions are called with the same arguments.
    compiled = jax.jit(step, donate_argnums=1, keep_unused=True)
    state = jnp.zeros((x.shape[0], hidden_size))

    def run() -> jax.Array:
        nonlocal state
        state = compiled(params, state, x).block_until_ready()
        return state

    return run
