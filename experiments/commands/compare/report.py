"""Test metrics of several cells and seeds, and of baselines: as JSON, a table and a plot."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from matplotlib.figure import Figure

from experiments.commands.compare.significance import (
    THRESHOLD,
    compare_cells,
    significantly_best,
)
from experiments.config import Cell, Published
from experiments.markdown import markdown_table
from experiments.plots import save
from experiments.tables import baseline_rows, number, published_rows, sources

Result = Mapping[str, Any]
# Maximum relative difference between the numbers of parameters of two cells.
BUDGET_TOLERANCE = 0.015


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
            "model": _row_name(cell, of_cell[0]["model"]),
            "parameters": of_cell[0]["parameters"],
            "own": dict(overrides.get(cell, {})),
            "seeds": [summary["seed"] for summary in of_cell],
            "test": test_metrics(summaries)[cell],
            "wall_seconds": [meta.get("wall_seconds") for meta in metas[cell]],
        }
        for cell, of_cell in summaries.items()
    ]
    return {
        "models": models,
        "baselines": next(iter(summaries.values()))[0]["baselines"],
        "published": [entry.model_dump() for entry in published],
    }


def _row_name(cell: str, model: str) -> str:
    """The model, and the variant if it is one."""
    return model if cell in get_args(Cell) else f"{model}, {cell}"


def test_metrics(summaries: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, Any]]:
    """Returns, by cell and test metric, the mean, deviation and values over the seeds."""
    return {
        cell: {
            metric: summarize([summary["test"][metric] for summary in of_cell])
            for metric in of_cell[0]["test"]
        }
        for cell, of_cell in summaries.items()
    }


def summarize(values: list[float]) -> dict[str, Any]:
    """Returns the mean, the sample standard deviation (None for one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def to_markdown(result: Result) -> str:
    """Returns the table with the command that made it and tests of significance, in Markdown."""
    header, rows = table(result, bold=True)
    parts = [
        f"{result['name']}: test metrics at the best validation, mean and standard deviation over "
        f"the seeds, by `{result['command']}`.",
        markdown_table(header, rows),
        _significance(result["models"]),
        _average_over(result),
        _overrides(result),
        _budget(result),
        sources(published_metrics(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _significance(models: Sequence[Result]) -> str:
    """Returns the test, the rule for bold, and the corrected p values of each metric."""
    if len(models) < 2:
        return ""
    of_metrics = []
    for metric in models[0]["test"]:
        texts = [
            f"{' and '.join(map(str.upper, comparison.cells))} "
            + ("-" if comparison.p_holm is None else f"{comparison.p_holm:.2g}")
            for comparison in compare_cells(models, metric)
        ]
        of_metrics.append(f"{metric.replace('_', ' ')}: {', '.join(texts)}")
    return (
        f"Bold: better than every other cell, p < {THRESHOLD:g}. p values of paired t-tests over "
        f"the seeds, with Holm's correction over the pairs of cells: {'; '.join(of_metrics)}."
    )


def _average_over(result: Result) -> str:
    """Returns a table with a row for each value of a field that the metrics are means over."""
    if "average_over" not in result:
        return ""
    field, values = result["average_over"]["field"], result["average_over"]["values"]
    columns = [
        (metric, model["cell"])
        for metric in result["models"][0]["test"]
        for model in result["models"]
    ]
    name = field.replace("_", " ")
    header = [name, *(f"{metric.replace('_', ' ')}, {cell.upper()}" for metric, cell in columns)]
    rows = [
        [value, *(mean(of_value[cell][metric]) for metric, cell in columns)]
        for value, of_value in values.items()
    ]
    return f"Means over {name}, which are made of:\n\n{markdown_table(header, rows)}"


def _budget(result: Result) -> str:
    """Returns a sentence on models outside of the parameter budget; older results hold none."""
    budget = result.get("parameter_budget")
    texts = [
        f"{model['model']} {100 * (model['parameters'] / budget - 1):+.1f} %"
        for model in result["models"]
        if budget and abs(model["parameters"] / budget - 1) > BUDGET_TOLERANCE
    ]
    return (
        f"Parameters that differ by more than {100 * BUDGET_TOLERANCE:g} % from the budget, "
        f"{budget:,}: {'; '.join(texts)}."
        if texts
        else ""
    )


def _overrides(result: Result) -> str:
    """Returns a sentence on values that only one cell had; older results do not hold them."""
    texts = [
        f"{model['model']}: " + ", ".join(f"{key} {value}" for key, value in model["own"].items())
        for model in result["models"]
        if model.get("own")
    ]
    return f"Cell-specific values: {'; '.join(texts)}." if texts else ""


def table(result: Result, *, bold: bool = False) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows: baselines, published metrics, models.

    With ``bold``, the mean of a significantly best cell is bold, in Markdown.
    """
    models = result["models"]
    metrics = list(models[0]["test"])
    best = {metric: significantly_best(models, metric) if bold else None for metric in metrics}
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
            *(
                mean(model["test"][metric], bold=bold and best[metric] == model["cell"])
                for metric in metrics
            ),
        ]
        for model in models
    ]
    return header, rows


def published_metrics(result: Result) -> list[Published]:
    """Returns published metrics; an empty list for older results, which do not hold them."""
    return [Published(**entry) for entry in result.get("published", [])]


def mean(of_seeds: Result, *, bold: bool = False) -> str:
    """Returns a mean, bold if wanted, with its standard deviation, as a text."""
    text = f"**{number(of_seeds['mean'])}**" if bold else number(of_seeds["mean"])
    if of_seeds["deviation"] is None:
        return text
    return f"{text} +- {number(of_seeds['deviation'])}"


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
