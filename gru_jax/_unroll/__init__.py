"""How a cell's steps run over time; README.md beside this file has the design on one page."""

from gru_jax._unroll.api import initial_state, step, unroll, unroll_truncated
from gru_jax._unroll.tbptt import tbptt_windows

__all__ = ["initial_state", "step", "tbptt_windows", "unroll", "unroll_truncated"]
