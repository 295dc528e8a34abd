"""Weights in and out: one module a framework, each with `load(theirs)` and `dump(ours)`.

The modules are imported by name, `from gru_jax.interop import torch`; none is loaded here.
"""
