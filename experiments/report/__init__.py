"""The command `report`: one HTML page over a folder of runs."""

from experiments.report.command import main

__all__ = ["main"]
