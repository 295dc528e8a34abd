"""The figures of several cells and seeds beside those of others: as JSON, a table and a plot."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from experiments.config import Published
from experiments.plots import save
from experiments.tables import number, published_rows, rows_of_others, sources

Result = Mapping[str, Any]


def gather(
    summaries: Mapping[str, Sequence[Result]],
    metas: Mapping[str, Sequence[Result]],
    published: Sequence[Published] = (),
    own: Mapping[Any, Result] = MappingProxyType({}),
) -> dict[str, Any]:
    """Means and standard deviations over the seeds.

    Args:
        summaries: by cell, what `summary.json` of each seed holds.
        metas: by cell, what `meta.json` of each seed holds.
        published: what the config says.
        own: by cell, the values that the config has for it alone.

    Returns:
        "models": a row per cell, with its own values; "baselines": their test figures by name;
        "published": as in the config.
    """
    models = [
        {
            "cell": cell,
            "model": of_cell[0]["model"],
            "parameters": of_cell[0]["parameters"],
            "own": dict(own.get(cell, {})),
            "seeds": [summary["seed"] for summary in of_cell],
            "test": {
                figure: spread([summary["test"][figure] for summary in of_cell])
                for figure in of_cell[0]["test"]
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


def spread(values: list[float]) -> dict[str, Any]:
    """The mean, the standard deviation of the sample (None of one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def to_markdown(result: Result) -> str:
    """The table, and the command that made it."""
    header, rows = table(result)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    parts = [
        f"{result['name']}: test figures at the best validation, mean and standard deviation over "
        f"the seeds, by `{result['command']}`.",
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
        _own_values(result),
        sources(published_figures(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _own_values(result: Result) -> str:
    """What the cells were given that the others were not; comparisons of old say nothing of it."""
    texts = [
        f"{model['model']}: " + ", ".join(f"{key} {value}" for key, value in model["own"].items())
        for model in result["models"]
        if model.get("own")
    ]
    return f"Values of their own: {'; '.join(texts)}." if texts else ""


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """The header and the rows: baselines, published figures, models."""
    figures = list(result["models"][0]["test"])
    header = ["model", "parameters", "seeds", *(figure.replace("_", " ") for figure in figures)]
    rows = [
        [name, "", "", *texts]
        for name, texts in rows_of_others(result["baselines"], published_figures(result), figures)
    ]
    rows += [
        [
            model["model"],
            f"{model['parameters']:,}",
            ", ".join(map(str, model["seeds"])),
            *(mean(model["test"][figure]) for figure in figures),
        ]
        for model in result["models"]
    ]
    return header, rows


def published_figures(result: Result) -> list[Published]:
    """What others published; nothing where the comparison was written before that was kept."""
    return [Published(**entry) for entry in result.get("published", [])]


def mean(of_seeds: Result) -> str:
    """A mean with its deviation, as a text."""
    if of_seeds["deviation"] is None:
        return number(of_seeds["mean"])
    return f"{number(of_seeds['mean'])} +- {number(of_seeds['deviation'])}"


def draw(result: Result, path: Path) -> None:
    """Draws each test figure: a mark per model with its deviation, a line per figure of others."""
    figures = list(result["models"][0]["test"])
    canvas = Figure(figsize=(6.5, 0.6 + 2.6 * len(figures)), layout="constrained")
    panels = canvas.subplots(len(figures), 1, squeeze=False)[:, 0]
    for panel, figure in zip(panels, figures, strict=True):
        for place, model in enumerate(result["models"]):
            found = model["test"][figure]
            panel.errorbar(
                found["mean"], place, xerr=found["deviation"], fmt=".", capsize=4, color="black"
            )
            panel.plot(
                found["values"],
                [place] * len(found["values"]),
                "|",
                markersize=12,
                color=f"C{place}",
            )
        lines = [(":", *item) for item in result["baselines"].items()]
        lines += [("--", *item) for item in published_rows(published_figures(result)).items()]
        for color, (style, name, of_name) in enumerate(lines, 5):
            if figure in of_name:
                panel.axvline(of_name[figure], color=f"C{color}", linestyle=style, label=name)
        panel.set_yticks(range(len(result["models"])), [m["model"] for m in result["models"]])
        panel.set_ylim(len(result["models"]) - 0.5, -0.5)
        panel.set_xlabel(figure.replace("_", " "))
        shown = [value for model in result["models"] for value in model["test"][figure]["values"]]
        shown += [of_name[figure] for _, _, of_name in lines if figure in of_name]
        if 0 < 100 * min(shown) < max(shown):
            # What matters lies at the left end of a linear axis, on one spot.
            panel.set_xscale("log")
        if any(figure in of_name for _, _, of_name in lines):
            panel.legend(edgecolor="none", framealpha=0.9, fontsize="small", loc="best")
    canvas.suptitle(f"{result['name']}: test, mean and deviation, a tick per seed")
    save(canvas, path)
