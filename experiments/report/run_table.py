"""The table of an experiment's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.commands.compare import report
from experiments.config import DESCRIPTIVE
from experiments.report.collect import Experiment, RunRecord
from experiments.runs.config_loading import flat
from experiments.tables import number, rows_of_others

# What the columns model and seed say already.
NAMED = {"task", "seed"} | {
    f"model.{name}" for name in ("cell", "hidden_size", "num_layers", "bidirectional")
}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: a text for each column.
        kind: "other" for figures that ours are held against, "mean", or a run's status.
        link: of the first cell.
    """

    cells: Sequence[str]
    kind: str = ""
    link: str = ""


def run_table(experiment: Experiment, anchor: str) -> tuple[list[str], list[Row]]:
    """Returns the header and the rows, a run each.

    Unless a comparison has them, what the runs are held against stands above, means below.

    Args:
        experiment: has runs.
        anchor: what the links to runs begin with.
    """
    runs = experiment.runs
    tests = [run.summary.test for run in runs if run.summary]
    entries = [entry for run in runs for entry in run.published]
    figures = list(
        dict.fromkeys([name for test in tests for name in test] or [e.figure for e in entries])
    )
    settings = [_settings(run) for run in runs]
    varying = [
        key
        for key in dict.fromkeys(key for of_run in settings for key in of_run)
        if len({of_run.get(key, "") for of_run in settings if of_run}) > 1
    ]
    after = ["best step", "steps", "parameters", "seconds"]
    named = [name.replace("_", " ") for name in figures]
    header = ["run", "status", "model", "seed", *varying, *named, *after]
    is_compared = experiment.comparison and experiment.comparison.result
    others = [] if is_compared else _others(runs, figures)
    means = [] if is_compared else _means(runs, settings, varying, figures)
    rows = [
        Row([name, *[""] * (3 + len(varying)), *texts, *[""] * len(after)], "other")
        for name, texts in others
    ]
    for place, (run, of_run) in enumerate(zip(runs, settings, strict=True)):
        rows.append(
            Row(
                [
                    below(run.path, experiment.path),
                    run.status,
                    run.model,
                    run.seed,
                    *(of_run.get(key, "") for key in varying),
                    *(number(run.summary and run.summary.test.get(name)) for name in figures),
                    f"{run.summary.best_step:,}" if run.summary else "",
                    _steps(run),
                    f"{run.summary.parameters:,}" if run.summary else "",
                    "" if run.seconds is None else f"{run.seconds:,.0f}",
                ],
                run.status,
                f"{anchor}-run-{place}",
            )
        )
    rows += [Row([*cells, *[""] * len(after)], "mean") for cells in means]
    return header, rows


def _means(
    runs: Sequence[RunRecord],
    settings: Sequence[Mapping[str, str]],
    varying: Sequence[str],
    figures: Sequence[str],
) -> list[list[str]]:
    """For finished runs that differ in the seed alone, their mean and deviation."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run, of_run in zip(runs, settings, strict=True):
        if run.summary and run.summary.test.keys() == set(figures):
            key = run.model, "", *(of_run.get(key, "") for key in varying)
            groups.setdefault(key, []).append(run)
    rows = []
    for key, members in groups.items():
        summaries = [run.summary for run in members if run.summary]
        if len({summary.seed for summary in summaries}) == len(members) > 1:
            tests = [summary.test for summary in summaries]
            means = [report.mean(report.spread([test[name] for test in tests])) for name in figures]
            rows.append([f"mean of {len(members)} seeds", "", *key, *map(typeset, means)])
    return rows


def _others(runs: Sequence[RunRecord], figures: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Baselines and published figures, each once: where runs differ in theirs, all are there."""
    rows = []
    for run in runs:
        baselines = run.summary.baselines if run.summary else {}
        rows += rows_of_others(baselines, [], figures)
    for run in runs:
        rows += rows_of_others({}, run.published, figures)
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _settings(run: RunRecord) -> dict[str, str]:
    """The config as texts by dotted key, without what is named elsewhere or changes nothing.

    Without what is None, too: versions in which there is no such key are the same then.
    """
    values = {key: value for key, value in run.values.items() if key not in DESCRIPTIVE}
    return {
        key: str(value) for key, value in flat(values) if key not in NAMED and value is not None
    }


def _steps(run: RunRecord) -> str:
    training = run.values.get("training")
    planned = training.get("steps", "") if isinstance(training, Mapping) else ""
    if run.summary:
        return f"{run.summary.steps:,}"
    return f"{run.last_step or 0:,} of {planned:,}" if isinstance(planned, int) else ""


def typeset(text: str) -> str:
    """A text of a plain table as print would have it."""
    return text.replace("+-", "±")


def below(path: Path, parent: Path) -> str:
    """A path as it is seen from another above it."""
    is_below = path != parent and path.is_relative_to(parent)
    return str(path.relative_to(parent) if is_below else path)
