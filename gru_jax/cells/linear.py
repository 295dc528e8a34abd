"""The linear part of a step: matmuls in the weights' dtype, accumulated in float32 at least."""

from collections.abc import Sequence

import jax.numpy as jnp

from gru_jax.typing import Array, DType


def affine(operand: Array, weights: Array, addends: Sequence[Array | None]) -> tuple[Array, ...]:
    """``operand @ weights``, split into one array per addend, to which that addend is added.

    Args:
        operand: (*batch, H).
        weights: (H, k * N).
        addends: k arrays (*batch, N) or (N,); None adds nothing.

    Returns:
        The k preactivations, (*batch, N) each.

    Raises:
        ValueError: the columns of ``weights`` cannot be split evenly, or an addend does not fit.
    """
    columns, pieces = weights.shape[-1], len(addends)
    if not pieces or columns % pieces:
        raise ValueError(
            f"affine: weights have {columns} columns, which cannot be split into {pieces} equal "
            "pieces, one for each addend"
        )
    for index, addend in enumerate(addends):
        if addend is not None and addend.shape[-1:] not in ((columns // pieces,), (1,)):
            raise ValueError(
                f"affine: addends[{index}] has shape {addend.shape}, expected its last axis to be "
                f"{columns // pieces}: {columns} columns of the weights, split into {pieces}"
            )
    split = jnp.split(dot(operand, weights), pieces, axis=-1)
    return tuple(add_bias(part, addend) for part, addend in zip(split, addends, strict=True))


def dot(x: Array, w: Array) -> Array:
    """``x @ w`` in the dtype of ``w``, accumulated and returned in float32 at least."""
    if w.shape[0] == 1:
        # With one input feature XLA lowers this matmul to a broadcast multiply and fuses it into
        # the gates, which XLA:CPU then does not vectorise. Padding to two features keeps it a dot.
        x = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
        w = jnp.concatenate([w, jnp.zeros_like(w)])
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=accum_dtype(w.dtype))


def add_bias(x: Array, bias: Array | None) -> Array:
    """``x + bias`` over the last axis; ``x`` if there is no bias."""
    if bias is None:
        return x
    bias = jnp.broadcast_to(bias, x.shape)
    # Inputs of low precision as they are.
    is_narrower = jnp.finfo(bias.dtype).bits < jnp.finfo(x.dtype).bits
    return x + (bias.astype(x.dtype) if is_narrower else bias)


def accum_dtype(dtype: DType) -> DType:
    """The dtype of gate arithmetic and accumulation: float32 at least."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
