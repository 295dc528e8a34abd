"""Unrolling: how a cell's steps run over time."""

from gru_jax._unroll.api import initial_state, step, unroll, unroll_truncated
from gru_jax._unroll.chunks import windows

__all__ = ["initial_state", "step", "unroll", "unroll_truncated", "windows"]
