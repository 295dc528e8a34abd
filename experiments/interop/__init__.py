"""The command `interop`: measures conversions between libraries, and reads bad files."""

from experiments.interop.command import main

__all__ = ["main"]
