"""The page: what was collected as tables, in the template."""

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from experiments.commands.compare import report
from experiments.report.collect import Experiment
from experiments.report.curves import draw_curves
from experiments.report.run_table import Row, below, run_table, typeset
from experiments.tables import sources


@dataclass(frozen=True)
class Section:
    """An experiment as the template shows it."""

    experiment: Experiment
    anchor: str
    comparison: tuple[Sequence[str], Sequence[Row]] | None
    runs: tuple[Sequence[str], Sequence[Row]] | None
    sources: str | None
    curves: bytes | None


def render(experiments: Sequence[Experiment], folder: Path, command: str) -> str:
    """Returns the page, in which every text that came from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["pairs"] = _pairs
    environment.filters["below"] = below
    environment.filters["paragraphs"] = _paragraphs
    return environment.get_template("page.html").render(
        folder=folder,
        command=command,
        style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
        written=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        sections=[_section(experiment, n) for n, experiment in enumerate(experiments, 1)],
    )


def _section(experiment: Experiment, place: int) -> Section:
    result = experiment.comparison and experiment.comparison.result
    published = [entry for run in experiment.runs for entry in run.published]
    comparison = None
    if result:
        values = result.model_dump()
        published += report.published_figures(values)
        header, rows = report.table(values)
        models = {model.model for model in result.models}
        comparison = (
            header,
            [Row([*map(typeset, row)], "" if row[0] in models else "other") for row in rows],
        )
    anchor = f"experiment-{place}"
    return Section(
        experiment,
        anchor,
        comparison,
        run_table(experiment, anchor) if experiment.runs else None,
        sources(published),
        draw_curves(experiment.runs),
    )


def _paragraphs(markdown: str) -> list[tuple[str, list[Row]]]:
    """The paragraphs of what a command wrote; of a table, its rows, the header first."""
    found = []
    for paragraph in markdown.strip().split("\n\n"):
        lines = paragraph.splitlines()
        is_table = len(lines) > 1 and lines[1].startswith("| ---")
        rows = [Row(line.strip("| ").split(" | ")) for line in lines] if is_table else []
        found.append((paragraph, rows[:1] + rows[2:]))
    return found


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _pairs(values: Mapping[str, Any]) -> str:
    """A line of names and values."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
