"""Flax modules: NNX here, Linen in :mod:`gru_jax.nn.linen`."""

from gru_jax.nn.nnx import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    RecurrentCell,
    RecurrentLayers,
    RNNCell,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "RecurrentCell",
    "RecurrentLayers",
]
