"""The command `compare`: one config with several cells and seeds, side by side."""

from experiments.commands.compare.command import main

__all__ = ["main"]
