"""Weight converters: one module for each framework, with `load(source)` and `dump(params)`.

Import the modules by name, `from gru_jax.interop import torch`. This package imports none of them.
"""
