"""Cells: what one step of a recurrence computes."""

from collections.abc import Callable
from typing import NamedTuple

from gru_jax.cells.base import AffineCell, AffineFn, Cell
from gru_jax.cells.gru import GRUParams, init
from gru_jax.cells.linear import add_bias, affine, dot
from gru_jax.cells.lstm import LSTMParams, LSTMState, init_lstm
from gru_jax.cells.rnn import RNNParams, init_rnn


class CellKind(NamedTuple):
    """What the rest of the library knows of a cell that is selected by name."""

    params: type[Cell]  # the class of its parameters
    init: Callable[..., Cell]  # (key, input_size, hidden_size, *, dtype, **options)
    equations: str  # as text, for the metadata of files


CELLS: dict[str, CellKind] = {
    "gru": CellKind(
        GRUParams,
        init,
        "r = sigmoid(x W_r + h U_r + b_r); z = sigmoid(x W_z + h U_z + b_z); "
        "h' = n + z * (h - n); with reset after: n = tanh(x W_n + b_n + r * (h U_n + b_hn)); "
        "with reset before: n = tanh(x W_n + b_n + (r * h) U_n)",
    ),
    "lstm": CellKind(
        LSTMParams,
        init_lstm,
        "i = sigmoid(x W_i + h U_i + b_i); f = sigmoid(x W_f + h U_f + b_f); "
        "g = tanh(x W_g + h U_g + b_g); o = sigmoid(x W_o + h U_o + b_o); "
        "c' = f * c + i * g; h' = o * tanh(c')",
    ),
    "rnn": CellKind(RNNParams, init_rnn, "h' = tanh(x W + h U + b)"),
}
"""Cells by name. An entry here registers a cell with files and with the experiments' configs."""

__all__ = [
    "CELLS",
    "AffineCell",
    "AffineFn",
    "Cell",
    "CellKind",
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
