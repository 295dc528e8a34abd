"""Renders the collected experiments with the page's template."""

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from experiments.commands.compare import report
from experiments.report.captions import caption
from experiments.report.collect import Experiment
from experiments.report.curves import Curves, plot_curves
from experiments.report.run_table import Row, below, run_table, typeset
from experiments.tables import sources


@dataclass(frozen=True)
class Section:
    """One experiment, in the form that the template needs."""

    experiment: Experiment
    anchor: str
    comparison: tuple[Sequence[str], Sequence[Row]] | None
    runs: tuple[Sequence[str], Sequence[Row]] | None
    sources: str | None
    curves: Sequence[Curves]


def render(
    experiments: Sequence[Experiment], left_out: Sequence[str], folder: Path, command: str
) -> str:
    """Returns the page; all text from files is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["key_values"] = _key_values
    environment.filters["below"] = below
    environment.filters["caption"] = caption
    environment.filters["paragraphs"] = _paragraphs
    environment.filters["zip"] = zip
    return environment.get_template("page.html").render(
        folder=folder,
        command=command,
        left_out=left_out,
        style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
        written=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        sections=[_section(experiment, n) for n, experiment in enumerate(experiments, 1)],
    )


def _section(experiment: Experiment, number: int) -> Section:
    result = experiment.comparison and experiment.comparison.result
    published = [entry for run in experiment.runs for entry in run.published]
    comparison = None
    if result:
        values = result.model_dump()
        published += report.published_metrics(values)
        header, rows = report.table(values)
        header = header[:3] + [f"test {name}" for name in header[3:]]
        models = {model.model for model in result.models}
        comparison = (
            header,
            [Row([*map(typeset, row)], "" if row[0] in models else "baseline") for row in rows],
        )
    anchor = f"experiment-{number}"
    return Section(
        experiment,
        anchor,
        comparison,
        run_table(experiment, anchor) if experiment.runs else None,
        sources(published),
        plot_curves(experiment.runs),
    )


def _paragraphs(markdown: str) -> list[tuple[str, list[Row]]]:
    """Returns the paragraphs of a Markdown text; those that are tables with their rows."""
    paragraphs = []
    for paragraph in markdown.strip().split("\n\n"):
        lines = paragraph.splitlines()
        is_table = len(lines) > 1 and lines[1].startswith("| ---")
        rows = [Row(line.strip("| ").split(" | ")) for line in lines] if is_table else []
        paragraphs.append((paragraph, rows[:1] + rows[2:]))
    return paragraphs


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _key_values(values: Mapping[str, Any]) -> str:
    """Returns names and values as one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
