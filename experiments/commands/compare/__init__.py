"""The command `compare`: trains one config with several cells and seeds, and compares them."""

from experiments.commands.compare.command import main

__all__ = ["main"]
