"""Packs sequences of different lengths into few rows, and gets what padding gives.

Padding runs as many steps as the longest sequence for all. Packing puts several sequences into one
row, one after another, and marks where each begins with `starts`.
"""

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax

FEATURES, HIDDEN = 8, 32


def pack(lengths, row_length):
    """Places sequences first fit, longest first: a list of (sequence, row, first step)."""
    free, placed = [], []
    for sequence in np.argsort(lengths)[::-1]:
        row = next((row for row, room in enumerate(free) if room >= lengths[sequence]), len(free))
        if row == len(free):
            free.append(row_length)
        placed.append((sequence, row, row_length - free[row]))
        free[row] -= lengths[sequence]
    return placed, len(free)


def main():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.05, size=64), 100)
    longest = lengths.max()
    sequences = [rng.normal(size=(length, FEATURES)).astype(np.float32) for length in lengths]
    params = gru_jax.init(jax.random.key(0), FEATURES, HIDDEN)

    padded = np.zeros((longest, len(lengths), FEATURES), np.float32)
    for index, sequence in enumerate(sequences):
        padded[: len(sequence), index] = sequence
    last, _ = gru_jax.unroll(params, jnp.asarray(padded), lengths=jnp.asarray(lengths))

    placed, rows = pack(lengths, longest)
    xs = np.zeros((longest, rows, FEATURES), np.float32)
    starts = np.zeros((longest, rows), bool)
    for index, row, begin in placed:
        xs[begin : begin + lengths[index], row] = sequences[index]
        starts[begin, row] = True
    _, ys = gru_jax.unroll(params, jnp.asarray(xs), starts=jnp.asarray(starts))

    # The state after each sequence is the output at its last step.
    indices, rows_of, begins = (np.array(column) for column in zip(*placed, strict=True))
    ends = begins + lengths[indices] - 1
    difference = jnp.abs(ys[ends, rows_of] - last[indices]).max()
    print(f"{len(lengths)} sequences in {rows} rows of {longest} steps")
    print(f"largest difference from padding: {difference:.1e}")
    return float(difference), rows


if __name__ == "__main__":
    main()
