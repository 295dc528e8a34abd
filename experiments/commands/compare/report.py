"""Test metrics of several cells and seeds, and of baselines: as JSON, a table and a plot."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from experiments.config import Published
from experiments.markdown import markdown_table
from experiments.plots import save
from experiments.tables import baseline_rows, number, published_rows, sources

Result = Mapping[str, Any]


def gather(
    summaries: Mapping[str, Sequence[Result]],
    metas: Mapping[str, Sequence[Result]],
    published: Sequence[Published] = (),
    overrides: Mapping[Any, Result] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the means and standard deviations over the seeds.

    Args:
        summaries: by cell, the content of `summary.json` for each seed.
        metas: by cell, the content of `meta.json` for each seed.
        published: published metrics, from the config.
        overrides: by cell, the config's values for that cell only.

    Returns:
        "models": a row per cell, with its overrides as "own"; "baselines": test metrics by name;
        "published": as in the config.
    """
    models = [
        {
            "cell": cell,
            "model": of_cell[0]["model"],
            "parameters": of_cell[0]["parameters"],
            "own": dict(overrides.get(cell, {})),
            "seeds": [summary["seed"] for summary in of_cell],
            "test": {
                metric: summarize([summary["test"][metric] for summary in of_cell])
                for metric in of_cell[0]["test"]
            },
            "wall_seconds": [meta["wall_seconds"] for meta in metas[cell]],
        }
        for cell, of_cell in summaries.items()
    ]
    return {
        "models": models,
        "baselines": next(iter(summaries.values()))[0]["baselines"],
        "published": [entry.model_dump() for entry in published],
    }


def summarize(values: list[float]) -> dict[str, Any]:
    """Returns the mean, the sample standard deviation (None for one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def to_markdown(result: Result) -> str:
    """Returns the table with the command that made it, in Markdown."""
    header, rows = table(result)
    parts = [
        f"{result['name']}: test metrics at the best validation, mean and standard deviation over "
        f"the seeds, by `{result['command']}`.",
        markdown_table(header, rows),
        _overrides(result),
        sources(published_metrics(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overrides(result: Result) -> str:
    """Returns a sentence on values that only one cell had; older results do not hold them."""
    texts = [
        f"{model['model']}: " + ", ".join(f"{key} {value}" for key, value in model["own"].items())
        for model in result["models"]
        if model.get("own")
    ]
    return f"Cell-specific values: {'; '.join(texts)}." if texts else ""


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows: baselines, published metrics, models."""
    metrics = list(result["models"][0]["test"])
    header = ["model", "parameters", "seeds", *(metric.replace("_", " ") for metric in metrics)]
    rows = [
        [name, "", "", *texts]
        for name, texts in baseline_rows(result["baselines"], published_metrics(result), metrics)
    ]
    rows += [
        [
            model["model"],
            f"{model['parameters']:,}",
            ", ".join(map(str, model["seeds"])),
            *(mean(model["test"][metric]) for metric in metrics),
        ]
        for model in result["models"]
    ]
    return header, rows


def published_metrics(result: Result) -> list[Published]:
    """Returns published metrics; an empty list for older results, which do not hold them."""
    return [Published(**entry) for entry in result.get("published", [])]


def mean(of_seeds: Result) -> str:
    """Returns a mean with its standard deviation, as a text."""
    if of_seeds["deviation"] is None:
        return number(of_seeds["mean"])
    return f"{number(of_seeds['mean'])} +- {number(of_seeds['deviation'])}"


def plot(result: Result, path: Path) -> None:
    """Plots each test metric: models with their deviation, and lines for baselines."""
    metrics = list(result["models"][0]["test"])
    figure = Figure(figsize=(6.5, 0.6 + 2.6 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 1, squeeze=False)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        for row, model in enumerate(result["models"]):
            of_model = model["test"][metric]
            panel.errorbar(
                of_model["mean"], row, xerr=of_model["deviation"], fmt=".", capsize=4, color="black"
            )
            panel.plot(
                of_model["values"],
                [row] * len(of_model["values"]),
                "|",
                markersize=12,
                color=f"C{row}",
            )
        lines = [(":", *item) for item in result["baselines"].items()]
        lines += [("--", *item) for item in published_rows(published_metrics(result)).items()]
        for color, (style, name, of_name) in enumerate(lines, 5):
            if metric in of_name:
                panel.axvline(of_name[metric], color=f"C{color}", linestyle=style, label=name)
        panel.set_yticks(range(len(result["models"])), [m["model"] for m in result["models"]])
        panel.set_ylim(len(result["models"]) - 0.5, -0.5)
        panel.set_xlabel(metric.replace("_", " "))
        values = [value for model in result["models"] for value in model["test"][metric]["values"]]
        values += [of_name[metric] for _, _, of_name in lines if metric in of_name]
        if 0 < 100 * min(values) < max(values):
            # On a linear axis the models would coincide at its left end.
            panel.set_xscale("log")
        if any(metric in of_name for _, _, of_name in lines):
            panel.legend(edgecolor="none", framealpha=0.9, fontsize="small", loc="best")
    figure.suptitle(f"{result['name']}: test, mean and deviation, a tick per seed")
    save(figure, path)
