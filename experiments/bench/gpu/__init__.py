"""The command `bench --gpu`: GRUs on a GPU, and whether the fused kernels are right there."""

from experiments.bench.gpu.command import main

__all__ = ["main"]
