"""Cells: what one step of a recurrence computes."""

from collections.abc import Callable
from typing import NamedTuple

from gru_jax.cells.base import Affine, AffineCell, Cell, add_bias, affine, dot
from gru_jax.cells.gru import GRUParams, init
from gru_jax.cells.lstm import LSTMParams, LSTMState, init_lstm
from gru_jax.cells.rnn import RNNParams, init_rnn

__all__ = [
    "CELLS",
    "Affine",
    "AffineCell",
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


class CellKind(NamedTuple):
    """A cell that has a name: the class of its parameters, and the function that draws them."""

    params: type[Cell]
    init: Callable[..., Cell]


CELLS: dict[str, CellKind] = {
    "gru": CellKind(GRUParams, init),
    "lstm": CellKind(LSTMParams, init_lstm),
    "rnn": CellKind(RNNParams, init_rnn),
}
