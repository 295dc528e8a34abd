"""Unrolling: how a cell's steps run over time."""

from gru_jax._unroll.api import initial_state, step, unroll, unroll_truncated
from gru_jax._unroll.chunks import tbptt_windows

__all__ = ["initial_state", "step", "tbptt_windows", "unroll", "unroll_truncated"]
