"""The command `bench --gpu`: times GRUs on a GPU and checks the fused kernels there."""

from experiments.bench.gpu.command import main

__all__ = ["main"]
