"""The comparison of two revisions as Markdown, from the contents of `revisions.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.report import format_summary, geometric_mean, machine
from experiments.bench.revisions import file_loads
from experiments.markdown import markdown_table

Result = Mapping[str, Any]
RATIOS = ("new / old", "control / old")
OF_CALLS = "Sizes are batch, time, input, hidden; float32. Tracing includes lowering to StableHLO."
OF_FILES = (
    "The files hold one GRU in float32, in the formats of `interop fuzz`. The first load is that "
    "of a new process, which has imported the reader; the repeated load is the median of those in "
    f"the next {file_loads.SECONDS} seconds, at least {file_loads.MIN_REPEATS}."
)


def to_markdown(result: Result) -> str:
    """A table of geometric means, and one for each metric."""
    hashes = {role: label(result, role) for role in ("old", "new")}
    metrics = list(next(iter(result["cases"].values())))
    about = OF_FILES if tuple(metrics) == file_loads.METRICS else OF_CALLS
    parts = [
        f"New is revision {hashes['new']}, old is {hashes['old']}. {machine(result)}, by "
        f"`{result['command']}`. The revisions run in separate processes, in interleaved rounds. "
        "Times and ratios are medians of the rounds, with quartiles in parentheses; below 1 the "
        "new revision is faster. The control is a second process of the old revision, so its "
        f"ratios are noise. {about}",
        _means(result, metrics),
        *(_metric(result, metric, hashes) for metric in metrics),
    ]
    if result["not_measured"]:
        parts.append(f"Not measured within the time limit: {'; '.join(result['not_measured'])}.")
    return "\n\n".join(parts) + "\n"


def label(result: Result, role: str) -> str:
    """The short hash of a revision, with a plus sign if tracked files differ from it."""
    revision = result["revisions"][role]
    return revision["git_revision"][:10] + ("+" if revision["git_changed_files"] else "")


def _means(result: Result, metrics: Sequence[str]) -> str:
    rows = []
    for metric in metrics:
        ratios = {
            name: [row[metric][name]["median"] for row in result["cases"].values()]
            for name in RATIOS
        }
        rows.append(
            [
                metric,
                *(f"{geometric_mean(values):.3f}" for values in ratios.values()),
                *(f"{max(values):.3f}" for values in ratios.values()),
            ]
        )
    return markdown_table(
        ["Geometric means and largest ratios", *RATIOS, *(f"largest {name}" for name in RATIOS)],
        rows,
    )


def _metric(result: Result, metric: str, hashes: Mapping[str, str]) -> str:
    rows = [
        [
            title,
            *(format_summary(row[metric][role]) for role in ("old", "new")),
            *(_ratio(row[metric][name]) for name in RATIOS),
            str(row[metric]["old"]["rounds"]),
        ]
        for title, row in result["cases"].items()
    ]
    header = [f"{metric.capitalize()}, ms", f"old {hashes['old']}", f"new {hashes['new']}"]
    return markdown_table([*header, *RATIOS, "rounds"], rows)


def _ratio(summary: Mapping[str, float]) -> str:
    return f"{summary['median']:.3f} ({summary['low']:.3f} to {summary['high']:.3f})"
