"""Recurrent networks for JAX: a GRU, an LSTM, a plain RNN and cells of your own, as pure functions.

>>> import jax, gru_jax
>>> params = gru_jax.init(jax.random.key(0), input_size=8, hidden_size=16)
>>> xs = jax.random.normal(jax.random.key(1), (50, 4, 8))  # (time, batch, features)
>>> h, ys = gru_jax.unroll(params, xs)
>>> h.shape, ys.shape
((4, 16), (50, 4, 16))
>>> lengths = jax.numpy.array([50, 7, 0, 31])
>>> h, ys = gru_jax.unroll(params, xs, lengths=lengths, reverse=True)
>>> gradient = jax.grad(lambda params: gru_jax.unroll(params, xs)[1].sum())(params)
>>> gru_jax.explain(params, xs).implementation
'xla'

Submodules: ``nn`` (Flax modules), ``training`` (an Optax loop), ``interop`` (weights of other
frameworks), ``export`` (serving), ``cells`` (cells of your own), ``initializers``, ``dropout``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gru_jax._explain import Explanation, StackExplanation, explain
from gru_jax._unroll import initial_state, step, tbptt_windows, unroll, unroll_truncated
from gru_jax.cells import (
    AffineCell,
    Cell,
    GRUParams,
    LSTMParams,
    LSTMState,
    RNNParams,
    init,
    init_lstm,
    init_rnn,
)
from gru_jax.rl import check_replay, starts_from_dones
from gru_jax.stack import Stack, init_stack, unroll_stack

if TYPE_CHECKING:
    from gru_jax import cells as cells
    from gru_jax import dropout as dropout
    from gru_jax import export as export
    from gru_jax import initializers as initializers
    from gru_jax import interop as interop
    from gru_jax import nn as nn
    from gru_jax import training as training

    __version__: str

_SUBMODULES = ("cells", "dropout", "export", "initializers", "interop", "nn", "training")
_MOVED = {
    "Affine": "gru_jax.cells.AffineFn",
    "add_bias": "gru_jax.cells.add_bias",
    "affine": "gru_jax.cells.affine",
    "dot": "gru_jax.cells.dot",
    "regularize": "gru_jax.dropout",
    "windows": "gru_jax.tbptt_windows",
}

__all__ = [
    "AffineCell",
    "Cell",
    "Explanation",
    "GRUParams",
    "LSTMParams",
    "LSTMState",
    "RNNParams",
    "Stack",
    "StackExplanation",
    "check_replay",
    "explain",
    "init",
    "init_lstm",
    "init_rnn",
    "init_stack",
    "initial_state",
    "starts_from_dones",
    "step",
    "tbptt_windows",
    "unroll",
    "unroll_stack",
    "unroll_truncated",
]


def __getattr__(name: str) -> Any:
    """Submodules are imported when they are first used: some load Flax, Optax or Orbax."""
    if name in _SUBMODULES:
        return importlib.import_module(f"gru_jax.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("gru-jax")
    if name in _MOVED:
        raise AttributeError(f"gru_jax.{name} is now {_MOVED[name]}")
    raise AttributeError(f"module 'gru_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
