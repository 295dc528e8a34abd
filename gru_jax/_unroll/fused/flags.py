"""Bit flags of a step, in which a kernel reads masks and resets as one array."""

import jax.numpy as jnp

from gru_jax.typing import Array

VALID, RESET = 1, 2
"""Bits of a step: the state is updated; the state is reset first."""


def pack_flags(valid: Array | None, resets: Array | None) -> Array | None:
    """The flags of all steps (T, B), int32; None if every step is valid and none resets.

    Args:
        valid: (T, B), bool; None if every step is valid.
        resets: (T, B), bool; None if no step resets.
    """
    if valid is None and resets is None:
        return None
    bits = jnp.int32(VALID) if valid is None else VALID * valid.astype(jnp.int32)
    return bits if resets is None else bits + RESET * resets.astype(jnp.int32)
