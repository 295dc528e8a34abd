"""The results of conversions as Markdown tables, from the contents of `interop.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.markdown import markdown_table

Result = Mapping[str, Any]

DTYPES = ("float32", "float64")
DIRECTIONS = ("load", "dump")


def to_markdown(result: Result) -> str:
    """All tables, with the command."""
    return "\n\n".join(part.strip() for part in (headline(result), _variants(result))) + "\n"


def fuzz_to_markdown(result: Result) -> str:
    """The table of bad files, with the commands, from the content of `fuzz.json`."""
    origins = {
        f"`{row.get('command', result['command'])}`, revision "
        f"{row.get('git_revision', result['git_revision'])[:10]}": None
        for row in result["files"]
    }
    header = ["Bad files"]
    for kind in _BAD:
        header += [kind, "rejected", "loaded"]
    header += ["other outcomes", "slowest, s", "memory, MiB"]
    header += ["valid file, MiB", "s", "memory, MiB"]
    rows = []
    for row in result["files"]:
        counts = [f"{row[kind][name]:,}" for kind in _BAD for name in ("files", *_OUTCOMES)]
        seconds = max(row[kind]["seconds"] for kind in _BAD)
        memory = max(row[kind]["mib"] for kind in _BAD)
        valid = [row["valid_bytes"] / (1 << 20), row["valid"]["seconds"], row["valid"]["mib"]]
        rows.append(
            [
                row["format"],
                *counts,
                str(len(row["unexpected"])),
                f"{seconds:.1f}",
                f"{memory:.0f}",
                *(f"{valid[0]:.0f} {valid[1]:.1f} {valid[2]:.0f}".split()),
            ]
        )
    return f"By {', and '.join(origins)}.\n\n{markdown_table(header, rows)}\n"


_BAD = ("adversarial", "constructed", "corrupted")
_OUTCOMES = ("rejected", "loaded")


def headline(result: Result) -> str:
    """The summary tables, with the command."""
    versions = result["versions"] | result["libraries"]
    libraries = ", ".join(
        f"{name} {versions[name]}" for name in ("jax", *sorted(result["libraries"]))
    )
    parts = [
        f"By `{result['command']}`, revision {result['git_revision'][:10]}, {libraries}. Largest "
        f"absolute difference in outputs and last states over {result['seeds']} random models of "
        "each kind, which are within [-1, 1].",
        _libraries(result),
    ]
    return "\n\n".join(parts) + "\n"


def _libraries(result: Result) -> str:
    columns = [(dtype, direction) for dtype in DTYPES for direction in DIRECTIONS]
    rows = []
    for library in dict.fromkeys(row["library"] for row in result["measurements"]):
        of_library = [row for row in result["measurements"] if row["library"] == library]
        kinds = len({row["variant"] for row in of_library})
        rows.append([library, str(kinds), *(_largest(of_library, *each) for each in columns)])
    header = ["", "kinds of models"]
    header += [f"{_LABELS[direction]}, {dtype}" for dtype, direction in columns]
    return markdown_table(header, rows)


def _variants(result: Result) -> str:
    rows = []
    measurements = result["measurements"]
    for key in dict.fromkeys((row["library"], row["variant"]) for row in measurements):
        of_variant = [row for row in measurements if (row["library"], row["variant"]) == key]
        dtype = of_variant[0]["dtype"]
        rows.append(
            [": ".join(key), *(_largest(of_variant, dtype, direction) for direction in DIRECTIONS)]
        )
    return markdown_table(
        ["Every kind of model", *(_LABELS[direction] for direction in DIRECTIONS)], rows
    )


_LABELS = {"load": "into gru_jax", "dump": "from gru_jax"}


def _largest(measurements: Sequence[Mapping[str, Any]], dtype: str, direction: str) -> str:
    errors = [
        row["error"]
        for row in measurements
        if (row["dtype"], row["direction"]) == (dtype, direction)
    ]
    return f"{max(errors):.1e}" if errors else ""
