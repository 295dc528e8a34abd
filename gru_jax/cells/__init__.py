"""Cells: what one step of a recurrence computes."""

from gru_jax.cells.base import AffineCell, AffineFn, Cell
from gru_jax.cells.gru import GRUParams, init
from gru_jax.cells.linear import add_bias, affine, dot
from gru_jax.cells.lstm import LSTMParams, LSTMState, init_lstm
from gru_jax.cells.rnn import RNNParams, init_rnn

__all__ = [
    "AffineCell",
    "AffineFn",
    "Cell",
    "GRUParams",
    "LSTMParams",
    "LSTMState",
    "RNNParams",
    "add_bias",
    "affine",
    "dot",
    "init",
    "init_lstm",
    "init_rnn",
]
