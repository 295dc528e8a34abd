"""The times of `bench --gpu` as Markdown, from the rows in `gpu.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.gpu.roofline import floor_ms
from experiments.bench.shapes import ProblemSize

Row = Mapping[str, Any]


def to_markdown(result: Mapping[str, Any]) -> str:
    """A table for each size, of the forward pass and of the gradient; the fastest row is first."""
    parts = [
        f"On {result['device']['kind']}, jax {result['versions']['jax']}, revision "
        f"{result['git_revision'][:10]}, by `{result['command']}`. Sizes are batch, time, input, "
        "hidden; the input projection is included. The gradient is a forward pass and the "
        "derivative with respect to parameters and inputs. The roofline is the time that the "
        "device's arithmetic or memory needs at least if the steps were not sequential."
    ]
    kind_of_device = result["device"]["kind"]
    for size in result["sizes"]:
        rows = [row for row in result["rows"] if row["size"] == size]
        for kind, title in (("forward", "Forward"), ("gradient", "Forward and gradient")):
            parts.append(
                _table(f"{title} at {size}", ProblemSize.parse(size), kind, rows, kind_of_device)
            )
        skipped = [row for row in rows if "skipped" in row]
        parts += [_skipped(skipped)] if skipped else []
    return "\n\n".join(parts) + "\n"


def _table(title: str, size: ProblemSize, kind: str, rows: Sequence[Row], device: str) -> str:
    lines = [
        f"| {title} | precision | ms | us per step | of the roofline |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    timed = [row for row in rows if kind in row]
    for row in sorted(timed, key=lambda row: row[kind]["median"]):
        median = row[kind]["median"]
        floor = floor_ms(size, row["precision"], device, gradient=kind == "gradient")
        share = "" if floor is None else f"{floor / median:.1%}"
        lines.append(
            f"| {row['implementation']} | {row['precision']} | {median:.3g} "
            f"| {median * 1e3 / size.time:.2f} | {share} |"
        )
    return "\n".join(lines)


def _skipped(rows: Sequence[Row]) -> str:
    """The variants that were not timed, by reason."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row["skipped"], []).append(
            f"{row['implementation']}, {row['precision']}"
        )
    lines = [f"- {reason}: {'; '.join(names)}" for reason, names in by_reason.items()]
    return "\n".join(["Not timed:", "", *lines])
