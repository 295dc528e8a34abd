"""Flax modules: NNX here, Linen in :mod:`gru_jax.nn.linen`.

After this import :mod:`flax.serialization` saves and restores cells and stacks.
"""

from gru_jax.nn.nnx import GRU, LSTM, RNN, RecurrentLayers
from gru_jax.nn.nnx_cells import GRUCell, LSTMCell, RecurrentCell, RNNCell
from gru_jax.nn.serialization import register_serialization

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "RecurrentCell",
    "RecurrentLayers",
    "register_serialization",
]
