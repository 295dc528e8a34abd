"""Trains a GRU that reads handwritten digits row by row, and classifies them.

Needs Optax and scikit-learn: pip install -e ".[experiments]". Takes a few seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import gru_jax

HIDDEN, CLASSES, STEPS, BATCH = 64, 10, 300, 128


def logits_of(params, images):
    """Class scores (N, 10) of images (N, 8, 8): the last state, and a linear readout."""
    xs = jnp.swapaxes(images, 0, 1)  # time is axis 0: 8 rows of 8 pixels
    h, _ = gru_jax.unroll(params["gru"], xs)
    return h @ params["kernel"] + params["bias"]


def loss_fn(params, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(params, images), labels).mean()


def main():
    digits = load_digits()
    images, labels = jnp.asarray(digits.images / 16, jnp.float32), jnp.asarray(digits.target)
    order = jax.random.permutation(jax.random.key(0), len(labels))
    train, test = order[:1400], order[1400:]

    params = {
        "gru": gru_jax.init(jax.random.key(1), input_size=8, hidden_size=HIDDEN),
        "kernel": jnp.zeros((HIDDEN, CLASSES)),
        "bias": jnp.zeros(CLASSES),
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
    opt_state = optimizer.init(params)

    @jax.jit
    def train_step(params, opt_state, key):
        chosen = jax.random.choice(key, train, (BATCH,))
        loss, grads = jax.value_and_grad(loss_fn)(params, images[chosen], labels[chosen])
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for step, key in enumerate(jax.random.split(jax.random.key(2), STEPS), start=1):
        params, opt_state, loss = train_step(params, opt_state, key)
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")

    accuracy = (logits_of(params, images[test]).argmax(-1) == labels[test]).mean()
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
