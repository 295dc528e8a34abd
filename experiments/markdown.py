"""Tables in Markdown, and reports made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.files import write_atomically, write_json


def write_report(folder: Path, name: str, result: Mapping[str, Any], markdown: str) -> None:
    """Writes NAME.json and NAME.md into a folder and prints the Markdown.

    Raises:
        OSError: if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", result)
    write_atomically(folder / f"{name}.md", markdown)
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {folder}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column is aligned to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
