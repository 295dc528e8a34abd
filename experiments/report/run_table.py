"""The table of an experiment's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.commands.compare import report
from experiments.config import METADATA_FIELDS
from experiments.report.collect import Experiment, RunRecord
from experiments.runs.config_loading import flat
from experiments.tables import baseline_rows, number

# Config keys that the columns model and seed show.
SHOWN_KEYS = {"task", "seed"} | {
    f"model.{name}" for name in ("cell", "hidden_size", "num_layers", "bidirectional")
}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: a text for each column.
        kind: "baseline", "mean", or a run's status.
        link: target of the first cell.
    """

    cells: Sequence[str]
    kind: str = ""
    link: str = ""


def run_table(experiment: Experiment, anchor: str) -> tuple[list[str], list[Row]]:
    """Returns the header and the rows, one per run.

    Baselines are above them and means below, unless the experiment has a comparison with both.

    Args:
        experiment: an experiment with runs.
        anchor: prefix of the links to runs.
    """
    runs = experiment.runs
    tests = [run.summary.test for run in runs if run.summary]
    entries = [entry for run in runs for entry in run.published]
    metrics = list(
        dict.fromkeys([name for test in tests for name in test] or [e.metric for e in entries])
    )
    settings = [_settings(run) for run in runs]
    varying = [
        key
        for key in dict.fromkeys(key for of_run in settings for key in of_run)
        if len({of_run.get(key, "") for of_run in settings if of_run}) > 1
    ]
    after = ["best step", "steps", "parameters", "seconds"]
    titles = [f"test {name.replace('_', ' ')}" for name in metrics]
    header = ["run", "status", "model", "seed", *varying, *titles, *after]
    is_compared = experiment.comparison and experiment.comparison.result
    baselines = [] if is_compared else _baselines(runs, metrics)
    means = [] if is_compared else _means(runs, settings, varying, metrics)
    rows = [
        Row([name, *[""] * (3 + len(varying)), *texts, *[""] * len(after)], "baseline")
        for name, texts in baselines
    ]
    for index, (run, of_run) in enumerate(zip(runs, settings, strict=True)):
        rows.append(
            Row(
                [
                    below(run.path, experiment.path),
                    run.status,
                    run.model,
                    run.seed,
                    *(of_run.get(key, "") for key in varying),
                    *(number(run.summary and run.summary.test.get(name)) for name in metrics),
                    f"{run.summary.best_step:,}" if run.summary else "",
                    _steps(run),
                    f"{run.summary.parameters:,}" if run.summary else "",
                    "" if run.seconds is None else f"{run.seconds:,.0f}",
                ],
                run.status,
                f"{anchor}-run-{index}",
            )
        )
    rows += [Row([*cells, *[""] * len(after)], "mean") for cells in means]
    return header, rows


def _means(
    runs: Sequence[RunRecord],
    settings: Sequence[Mapping[str, str]],
    varying: Sequence[str],
    metrics: Sequence[str],
) -> list[list[str]]:
    """Returns rows of mean and deviation for finished runs that differ only in the seed."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run, of_run in zip(runs, settings, strict=True):
        if run.summary and run.summary.test.keys() == set(metrics):
            key = run.model, "", *(of_run.get(key, "") for key in varying)
            groups.setdefault(key, []).append(run)
    rows = []
    for key, members in groups.items():
        summaries = [run.summary for run in members if run.summary]
        if len({summary.seed for summary in summaries}) == len(members) > 1:
            tests = [summary.test for summary in summaries]
            means = [
                report.mean(report.summarize([test[name] for test in tests])) for name in metrics
            ]
            rows.append([f"mean of {len(members)} seeds", "", *key, *map(typeset, means)])
    return rows


def _baselines(runs: Sequence[RunRecord], metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the distinct rows of baselines and published metrics of all runs."""
    rows = []
    for run in runs:
        baselines = run.summary.baselines if run.summary else {}
        rows += baseline_rows(baselines, [], metrics)
    for run in runs:
        rows += baseline_rows({}, run.published, metrics)
    return [row for index, row in enumerate(rows) if row not in rows[:index]]


def _settings(run: RunRecord) -> dict[str, str]:
    """Returns the config as texts by dotted key, without metadata and keys that have a column.

    Keys with the value None are left out, as versions without the key lack them.
    """
    values = {key: value for key, value in run.values.items() if key not in METADATA_FIELDS}
    return {
        key: str(value)
        for key, value in flat(values)
        if key not in SHOWN_KEYS and value is not None
    }


def _steps(run: RunRecord) -> str:
    training = run.values.get("training")
    planned = training.get("steps", "") if isinstance(training, Mapping) else ""
    if run.summary:
        return f"{run.summary.steps:,}"
    return f"{run.last_step or 0:,} of {planned:,}" if isinstance(planned, int) else ""


def typeset(text: str) -> str:
    """Returns a text of a Markdown table with typographic symbols."""
    return text.replace("+-", "±")


def below(path: Path, parent: Path) -> str:
    """Returns a path relative to a parent, or unchanged if it is not below it."""
    is_below = path != parent and path.is_relative_to(parent)
    return str(path.relative_to(parent) if is_below else path)
