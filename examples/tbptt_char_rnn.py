"""Trains a character language model with truncated backpropagation through time.

The state is carried from window to window, the gradient is not. The text is tiny Shakespeare if
$GRU_JAX_DATA has it (python -m experiments fetch tinyshakespeare), otherwise a few lines repeated.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax

BATCH, WINDOW, UPDATES, HIDDEN = 32, 50, 150, 128
LINES = """From fairest creatures we desire increase,
That thereby beauty's rose might never die,
But as the riper should by time decease,
His tender heir might bear his memory.
"""


def read_text():
    path = Path(os.environ.get("GRU_JAX_DATA", "."), "tinyshakespeare.txt")
    return path.read_text()[:300_000] if path.is_file() else LINES * 2000


def main():
    text = read_text()
    symbols = sorted(set(text))
    codes = np.array([symbols.index(character) for character in text], np.int32)
    # BATCH streams: stream b continues in row b of every window.
    length = (len(codes) - 1) // BATCH
    inputs = codes[: BATCH * length].reshape(BATCH, length).T
    targets = codes[1 : BATCH * length + 1].reshape(BATCH, length).T

    key_gru, key_readout = jax.random.split(jax.random.key(0))
    params = {
        "gru": gru_jax.init(key_gru, len(symbols), HIDDEN),
        "readout": jax.nn.initializers.lecun_normal()(key_readout, (HIDDEN, len(symbols))),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))
    opt_state = optimizer.init(params)

    def loss_fn(params, h, xs, targets):
        h, ys = gru_jax.unroll(params["gru"], xs, h)
        losses = optax.softmax_cross_entropy_with_integer_labels(ys @ params["readout"], targets)
        return losses.mean(), h

    @jax.jit
    def update(params, opt_state, h, codes, targets):
        xs = jax.nn.one_hot(codes, len(symbols))
        (loss, h), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, h, xs, targets)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, h, loss / jnp.log(2)

    h = gru_jax.initial_state(params["gru"], (BATCH,))
    bits = []
    for index in range(UPDATES):
        begin = index * WINDOW % (length - WINDOW)
        window = slice(begin, begin + WINDOW)
        params, opt_state, h, loss = update(params, opt_state, h, inputs[window], targets[window])
        bits.append(float(loss))
        if (index + 1) % 50 == 0:
            print(f"update {index + 1}: {np.mean(bits[-10:]):.2f} bits per character")
    return bits


if __name__ == "__main__":
    main()
