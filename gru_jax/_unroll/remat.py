"""Rematerialisation: one state saved for each chunk of time, chunks rerun for the gradient."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from gru_jax._unroll.chunks import scan_chunks
from gru_jax._unroll.masking import ScanInputs
from gru_jax.typing import Array, State

Run: TypeAlias = Callable[[ScanInputs, State], tuple[State, Array]]
"""Runs a cell over some steps: ``(inputs, h0) -> (h_last, ys)``."""


def run_with_remat(
    run: Run, inputs: ScanInputs, state: State, *, chunk_size: int | None, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, saving one state per chunk for the gradient (Chen et al. 2016).

    ``chunk_size=None`` takes about sqrt(T) steps, which balances what is saved between the chunks
    with what is recomputed within one.
    """
    if chunk_size is None:
        chunk_size = default_chunk_size(inputs.xs.shape[0])
    # prevent_cse=False: see the reference implementation; a chunk is a scan's body, too.
    rerun = jax.checkpoint(run, prevent_cse=False)
    return run_in_chunks(rerun, inputs, state, chunk_size=chunk_size, reverse=reverse)


def default_chunk_size(time: int) -> int:
    """About sqrt(T) steps, 1 at least."""
    return max(1, math.isqrt(time))


def run_in_chunks(
    run: Run, inputs: ScanInputs, state: State, *, chunk_size: int, reverse: bool
) -> tuple[State, Array]:
    """``run`` over all steps, chunk after chunk."""

    def run_chunk(state: State, chunk: Any) -> tuple[State, Array]:
        inputs, _ = chunk
        return run(inputs, state)

    return scan_chunks(run_chunk, state, inputs, chunk_size, reverse=reverse)
