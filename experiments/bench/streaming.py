"""One step at a time: what a jitted step costs beside a call into JAX that computes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gru_jax
from experiments.bench.timing import Spread, interleave


def time_batches(seconds: float) -> dict[str, dict[str, Spread]]:
    """Times steps at batch 1 and 32."""
    input_size, hidden_size = 64, 128
    return {
        f"batch {batch}, {input_size} to {hidden_size}": time_steps(
            batch, input_size, hidden_size, seconds / 2
        )
        for batch in (1, 32)
    }


def time_steps(batch: int, input_size: int, hidden_size: int, seconds: float) -> dict[str, Spread]:
    """Times a jitted step whose state is donated: each call takes what the last one gave.

    "dispatch" is a jitted function of the same arguments that gives the state back as it is, so
    that what a step takes beyond it is the step; "products alone" multiplies and adds.
    """
    params = gru_jax.init(jax.random.key(0), input_size, hidden_size)
    x = jax.random.normal(jax.random.key(1), (batch, input_size))

    def dispatch(params: gru_jax.GRUParams, h: jax.Array, x: jax.Array) -> jax.Array:
        del params, x
        return h

    def multiply(params: gru_jax.GRUParams, h: jax.Array, x: jax.Array) -> jax.Array:
        products = x @ params.w_x + h @ params.w_h
        return products[:, :hidden_size] * 0.5

    steps = {"gru_jax.step": gru_jax.step, "products alone": multiply, "dispatch": dispatch}
    runs = {name: _stream(step, params, x, hidden_size) for name, step in steps.items()}
    return interleave(runs, seconds=seconds)


def _stream(
    step: Callable[..., jax.Array], params: gru_jax.GRUParams, x: jax.Array, hidden_size: int
) -> Callable[[], Any]:
    # What a function does not read is kept, so that all are called with the same.
    compiled = jax.jit(step, donate_argnums=1, keep_unused=True)
    state = jnp.zeros((x.shape[0], hidden_size))

    def run() -> jax.Array:
        nonlocal state
        state = compiled(params, state, x).block_until_ready()
        return state

    return run
