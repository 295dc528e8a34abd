"""A run's final figures: the table of models side by side, printed from the run's two files."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.config import ModelConfig


def print_report(summary: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Prints the test figures of the network beside the baselines'.

    Args:
        summary: what `summary.json` holds.
        meta: what `meta.json` holds.
    """
    seed, split = summary["seed"], "test figures at the best validation"
    table = Table(title=f"{summary['task']}, seed {seed}: {split}", title_justify="left")
    table.add_column("model")
    for figure in summary["test"]:
        table.add_column(figure.replace("_", " "), justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("sequences/s", justify="right")
    for name, figures in summary["baselines"].items():
        table.add_row(name, *(number(figures.get(figure)) for figure in summary["test"]), "", "")
    table.add_row(
        summary["model"],
        *map(number, summary["test"].values()),
        f"{summary['parameters']:,}",
        f"{meta['sequences_per_second']:,.0f}" if meta.get("sequences_per_second") else "",
        style="bold",
    )
    Console(highlight=False).print(table)


def model_name(config: ModelConfig) -> str:
    """Returns a short name, such as "GRU, 2 layers of 64 units, both directions"."""
    layers = f"{config.num_layers} layers of " if config.num_layers > 1 else ""
    directions = ", both directions" if config.bidirectional else ""
    return f"{config.cell.upper()}, {layers}{config.hidden_size} units{directions}"


def number(value: float | None) -> str:
    """Returns a figure for a table; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.2e}"
