"""The figures of several cells and seeds beside the baselines': as JSON, a table and a plot."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.plots import save
from experiments.tables import number

Result = Mapping[str, Any]


def gather(
    summaries: Mapping[str, Sequence[Result]], metas: Mapping[str, Sequence[Result]]
) -> dict[str, Any]:
    """Means and standard deviations over the seeds.

    Args:
        summaries: by cell, what `summary.json` of each seed holds.
        metas: by cell, what `meta.json` of each seed holds.

    Returns:
        "models": a row per cell; "baselines": their test figures by name.
    """
    models = [
        {
            "cell": cell,
            "model": of_cell[0]["model"],
            "parameters": of_cell[0]["parameters"],
            "seeds": [summary["seed"] for summary in of_cell],
            "test": {
                figure: _spread([summary["test"][figure] for summary in of_cell])
                for figure in of_cell[0]["test"]
            },
            "wall_seconds": [meta["wall_seconds"] for meta in metas[cell]],
        }
        for cell, of_cell in summaries.items()
    ]
    return {"models": models, "baselines": next(iter(summaries.values()))[0]["baselines"]}


def _spread(values: list[float]) -> dict[str, Any]:
    """The mean, the standard deviation of the sample (None of one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def to_markdown(result: Result) -> str:
    """The table, and the command that made it."""
    figures = list(result["models"][0]["test"])
    header = ["model", "parameters", "seeds", *(figure.replace("_", " ") for figure in figures)]
    rows = [
        [name, "", "", *(number(of_name.get(figure)) for figure in figures)]
        for name, of_name in result["baselines"].items()
    ]
    rows += [
        [
            model["model"],
            f"{model['parameters']:,}",
            ", ".join(map(str, model["seeds"])),
            *(_mean(model["test"][figure]) for figure in figures),
        ]
        for model in result["models"]
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{result['name']}: test figures at the best validation, mean and standard deviation over "
        f"the seeds, by `{result['command']}`.\n\n{table}\n"
    )


def _mean(spread: Result) -> str:
    if spread["deviation"] is None:
        return number(spread["mean"])
    return f"{number(spread['mean'])} +- {number(spread['deviation'])}"


def draw(result: Result, path: Path) -> None:
    """Draws each test figure: a mark per model with its deviation, a line per baseline."""
    figures = list(result["models"][0]["test"])
    canvas = Figure(figsize=(6.5, 0.6 + 2.6 * len(figures)), layout="constrained")
    panels = canvas.subplots(len(figures), 1, squeeze=False)[:, 0]
    for panel, figure in zip(panels, figures, strict=True):
        for place, model in enumerate(result["models"]):
            spread = model["test"][figure]
            panel.errorbar(
                spread["mean"], place, xerr=spread["deviation"], fmt=".", capsize=4, color="black"
            )
            panel.plot(
                spread["values"],
                [place] * len(spread["values"]),
                "|",
                markersize=12,
                color=f"C{place}",
            )
        for color, (name, of_name) in enumerate(result["baselines"].items(), 5):
            if figure in of_name:
                panel.axvline(of_name[figure], color=f"C{color}", linestyle=":", label=name)
        panel.set_yticks(range(len(result["models"])), [m["model"] for m in result["models"]])
        panel.set_ylim(len(result["models"]) - 0.5, -0.5)
        panel.set_xlabel(figure.replace("_", " "))
        if result["baselines"]:
            panel.legend(frameon=False, fontsize="small", loc="best")
    canvas.suptitle(f"{result['name']}: test, mean and deviation, a tick per seed")
    save(canvas, path)
