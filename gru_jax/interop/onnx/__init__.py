"""ONNX: converts GRU nodes of a model to parameters, and parameters to a model of GRU nodes."""

from gru_jax.interop.files import import_optional

import_optional("onnx")

from gru_jax.interop.onnx.dump import dump  # noqa: E402
from gru_jax.interop.onnx.load import LoadedModel, load, read  # noqa: E402

__all__ = ["LoadedModel", "dump", "load", "read"]
