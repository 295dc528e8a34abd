"""The gated recurrent unit for JAX: pure functions from parameters and states to states."""

from gru_jax._unroll import initial_state, step, tbptt_windows, unroll, unroll_truncated
from gru_jax.cells import (
    Affine,
    AffineCell,
    Cell,
    GRUParams,
    LSTMParams,
    LSTMState,
    RNNParams,
    add_bias,
    affine,
    dot,
    init,
    init_lstm,
    init_rnn,
)
from gru_jax.stack import Stack, init_stack, unroll_stack

__all__ = [
    "Affine",
    "AffineCell",
    "Cell",
    "GRUParams",
    "LSTMParams",
    "LSTMState",
    "RNNParams",
    "Stack",
    "add_bias",
    "affine",
    "dot",
    "init",
    "init_lstm",
    "init_rnn",
    "init_stack",
    "initial_state",
    "step",
    "tbptt_windows",
    "unroll",
    "unroll_stack",
    "unroll_truncated",
]
