"""A run's final figures: the table of models side by side, printed from the run's two files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.config import ModelConfig, Published


def print_report(
    summary: Mapping[str, Any], meta: Mapping[str, Any], published: Sequence[Published]
) -> None:
    """Prints the test figures of the network beside the baselines' and those that others published.

    Args:
        summary: what `summary.json` holds.
        meta: what `meta.json` holds.
        published: what the config says.
    """
    seed, split = summary["seed"], "test figures at the best validation"
    table = Table(title=f"{summary['task']}, seed {seed}: {split}", title_justify="left")
    table.add_column("model")
    for figure in summary["test"]:
        table.add_column(figure.replace("_", " "), justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("sequences/s", justify="right")
    table.caption = sources(published)
    table.caption_justify = "left"
    for name, figures in rows_of_others(summary["baselines"], published, list(summary["test"])):
        table.add_row(name, *figures, "", "")
    table.add_row(
        summary["model"],
        *map(number, summary["test"].values()),
        f"{summary['parameters']:,}",
        f"{meta['sequences_per_second']:,.0f}" if meta.get("sequences_per_second") else "",
        style="bold",
    )
    Console(highlight=False).print(table)


def rows_of_others(
    baselines: Mapping[str, Mapping[str, float]],
    published: Iterable[Published],
    figures: Sequence[str],
) -> list[tuple[str, list[str]]]:
    """Returns what ours are held against: names, and a text for each of the test figures.

    Published figures have the digits that were published, and no more.
    """
    rows = [
        (name, [number(of_name.get(figure)) for figure in figures])
        for name, of_name in baselines.items()
    ]
    for name, of_name in published_rows(published).items():
        texts = [f"{of_name[figure]:g}" if figure in of_name else "" for figure in figures]
        rows.append((name, texts))
    return rows


def published_rows(published: Iterable[Published]) -> dict[str, dict[str, float]]:
    """Returns published figures by model, as a task gives those of its baselines."""
    rows: dict[str, dict[str, float]] = {}
    for entry in published:
        rows.setdefault(entry.model, {})[entry.figure] = entry.value
    return rows


def sources(published: Iterable[Published]) -> str | None:
    """Returns a sentence that says where published figures stand; None where there are none."""
    names = dict.fromkeys(entry.source for entry in published)
    return f"Published: {'; '.join(names)}." if names else None


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
