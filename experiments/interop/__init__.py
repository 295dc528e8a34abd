"""The command `interop`: measures every pair of libraries, and what becomes of bad files."""

from experiments.interop.command import main

__all__ = ["main"]
