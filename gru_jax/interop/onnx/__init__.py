"""ONNX: GRU nodes of a model into parameters, and parameters into a model of GRU nodes."""

from gru_jax.interop.files import needed

needed("onnx")

from gru_jax.interop.onnx.dump import dump  # noqa: E402
from gru_jax.interop.onnx.load import Layers, load, read  # noqa: E402

__all__ = ["Layers", "dump", "load", "read"]
