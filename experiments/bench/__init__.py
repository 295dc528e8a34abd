"""The command `bench`: our GRU beside other libraries', in time and memory."""

from experiments.bench.command import main

__all__ = ["main"]
