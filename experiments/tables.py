"""Result tables: a run's test metrics next to baselines and published ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.config import ModelConfig, Published


def print_report(
    summary: Mapping[str, Any], meta: Mapping[str, Any], published: Sequence[Published]
) -> None:
    """Prints the test metrics of the network, of the baselines, and published ones.

    Args:
        summary: content of `summary.json`.
        meta: content of `meta.json`.
        published: published metrics, from the config.
    """
    seed, split = summary["seed"], "test metrics at the best validation"
    table = Table(title=f"{summary['task']}, seed {seed}: {split}", title_justify="left")
    table.add_column("model")
    for metric in summary["test"]:
        table.add_column(metric.replace("_", " "), justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("sequences/s", justify="right")
    table.caption = sources(published)
    table.caption_justify = "left"
    for name, metrics in baseline_rows(summary["baselines"], published, list(summary["test"])):
        table.add_row(name, *metrics, "", "")
    table.add_row(
        summary["model"],
        *map(number, summary["test"].values()),
        f"{summary['parameters']:,}",
        f"{meta['sequences_per_second']:,.0f}" if meta.get("sequences_per_second") else "",
        style="bold",
    )
    Console(highlight=False).print(table)


def baseline_rows(
    baselines: Mapping[str, Mapping[str, float]],
    published: Iterable[Published],
    metrics: Sequence[str],
) -> list[tuple[str, list[str]]]:
    """Returns the rows of baselines and published metrics: a name, and a text for each metric.

    A published value is shown with as many digits as were published.
    """
    rows = [
        (name, [number(of_name.get(metric)) for metric in metrics])
        for name, of_name in baselines.items()
    ]
    for name, of_name in published_rows(published).items():
        texts = [f"{of_name[metric]:g}" if metric in of_name else "" for metric in metrics]
        rows.append((name, texts))
    return rows


def published_rows(published: Iterable[Published]) -> dict[str, dict[str, float]]:
    """Returns published metrics by model, in the form of a task's baselines."""
    rows: dict[str, dict[str, float]] = {}
    for entry in published:
        rows.setdefault(entry.model, {})[entry.metric] = entry.value
    return rows


def sources(published: Iterable[Published]) -> str | None:
    """Returns a sentence that cites the sources of published metrics; None if there are none."""
    names = dict.fromkeys(entry.source for entry in published)
    return f"Published: {'; '.join(names)}." if names else None


def model_name(config: ModelConfig) -> str:
    """Returns a short name, such as "GRU, 2 layers of 64 units, both directions"."""
    layers = f"{config.num_layers} layers of " if config.num_layers > 1 else ""
    directions = ", both directions" if config.bidirectional else ""
    return f"{config.cell.upper()}, {layers}{config.hidden_size} units{directions}"


def number(value: float | None) -> str:
    """Returns a value as the text of a table cell; an empty string for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.2e}"
