"""The figures of conversions as Markdown tables, from what `interop.json` holds."""

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

DTYPES = ("float32", "float64")
DIRECTIONS = ("load", "dump")


def to_markdown(result: Result) -> str:
    """All tables, with the command they were made by."""
    return "\n\n".join(part.strip() for part in (headline(result), _variants(result))) + "\n"


def headline(result: Result) -> str:
    """The tables that the README shows."""
    versions = result["versions"] | result["libraries"]
    made = ", ".join(f"{name} {versions[name]}" for name in ("jax", *sorted(result["libraries"])))
    parts = [
        f"By `{result['command']}`, revision {result['git_revision'][:10]}, {made}. Largest "
        f"absolute difference in outputs and last states over {result['seeds']} random models of "
        "each kind, which are within [-1, 1].",
        _pairs(result),
    ]
    if result["files"]:
        parts.append(_files(result))
    return "\n\n".join(parts) + "\n"


def _pairs(result: Result) -> str:
    columns = [(dtype, direction) for dtype in DTYPES for direction in DIRECTIONS]
    rows = []
    for library in dict.fromkeys(pair["library"] for pair in result["pairs"]):
        of_library = [pair for pair in result["pairs"] if pair["library"] == library]
        kinds = len({pair["variant"] for pair in of_library})
        rows.append([library, str(kinds), *(_largest(of_library, *each) for each in columns)])
    header = ["", "kinds of models"]
    header += [f"{_WORDS[direction]}, {dtype}" for dtype, direction in columns]
    return _table(header, rows)


def _variants(result: Result) -> str:
    rows = []
    for key in dict.fromkeys((pair["library"], pair["variant"]) for pair in result["pairs"]):
        of_variant = [pair for pair in result["pairs"] if (pair["library"], pair["variant"]) == key]
        dtype = of_variant[0]["dtype"]
        rows.append([": ".join(key), *(_largest(of_variant, dtype, way) for way in DIRECTIONS)])
    return _table(["Every kind of model", *(_WORDS[direction] for direction in DIRECTIONS)], rows)


_WORDS = {"load": "theirs in ours", "dump": "ours in theirs"}


def _largest(pairs: Sequence[Mapping[str, Any]], dtype: str, direction: str) -> str:
    errors = [
        pair["error"] for pair in pairs if (pair["dtype"], pair["direction"]) == (dtype, direction)
    ]
    return f"{max(errors):.1e}" if errors else ""


def _files(result: Result) -> str:
    rows = [
        [
            row["format"],
            f"{row['hostile_refused']} of {row['hostile']}",
            f"{row['damaged']:,}",
            f"{row['damaged_refused']:,}",
            f"{row['damaged_loaded']:,}",
            str(row["wrong"]),
            f"{row['slowest_seconds']:.1f}",
            f"{row['memory_mib']:.0f}",
        ]
        for row in result["files"]
    ]
    header = ["Bad files", "hostile, refused", "damaged", "refused", "loaded", "anything else"]
    return _table([*header, "slowest, s", "memory, MiB"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
