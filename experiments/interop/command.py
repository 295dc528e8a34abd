"""Measures what the options ask for, and writes it as JSON and as tables."""

import dataclasses
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from tqdm import tqdm

from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.interop import report
from experiments.interop.bad_files.formats import FORMATS, SLOW
from experiments.interop.frameworks import FRAMEWORKS
from experiments.interop.pairs import Pair, all_pairs
from experiments.runs.provenance import provenance


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts weights between gru_jax and the libraries that are installed, both ways.

    Each model runs in both with the same inputs and states, and the largest difference counts.
    Then damaged and hostile files are read, in a process of its own. `pip install -e
    ".[interop,experiments]"` installs the libraries.
    """

    seeds: int = 5
    """How many random weights and inputs each pair of models is measured with."""
    files: int = 3000
    """How many damaged files of each format; 0 reads none, and no hostile ones."""
    slow_files: int = 1000
    """How many of those formats that take a process for each file."""
    output: Path | None = None
    """Directory of interop.json and interop.md; the default is runs/interop/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: options that will not do.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments interop")
    for name, least in (("seeds", 1), ("files", 0), ("slow_files", 0)):
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(options, name)}, but must be {least} at least.")
    output = options.output or Path("runs", "interop", time.strftime("%Y%m%d-%H%M%S"))
    result = {
        "command": shlex.join(["python", "-m", "experiments", "interop", *arguments]),
        **provenance(),
        "libraries": {
            framework.distribution: framework.version
            for framework in FRAMEWORKS.values()
            if framework.version
        },
        "seeds": options.seeds,
        "pairs": _measure_pairs(options.seeds),
        "files": _read_files(options) if options.files else [],
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "interop.json", result)
    markdown = report.to_markdown(result)
    write_atomically(output / "interop.md", markdown)
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {output}")
    return 0


def _measure_pairs(seeds: int) -> list[dict[str, Any]]:
    bar = tqdm(all_pairs(), unit="pair", disable=not sys.stderr.isatty())
    return [_measure(pair, seeds) for pair in bar]


def _measure(pair: Pair, seeds: int) -> dict[str, Any]:
    return {
        "library": pair.name,
        "variant": pair.variant,
        "direction": pair.direction,
        "dtype": pair.dtype,
        "error": max(pair.measure(seed) for seed in range(seeds)),
    }


def _read_files(options: Options) -> list[dict[str, Any]]:
    rows = []
    for name in tqdm(FORMATS, unit="format", disable=not sys.stderr.isatty()):
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = FORMATS[name](Path(folder))
            except ImportError:
                # What writes such files is not installed.
                continue
            count = options.slow_files if name in SLOW else options.files
            found = made.survey([*made.hostile.values(), *made.damaged(count)])
        hostile = len(made.hostile)
        rows.append(
            {
                "format": made.name,
                "hostile": hostile,
                "hostile_refused": found.outcomes[:hostile].count("refused"),
                "damaged": count,
                "damaged_refused": found.outcomes[hostile:].count("refused"),
                "damaged_loaded": found.outcomes[hostile:].count("loaded"),
                "wrong": len(found.wrong),
                "slowest_seconds": found.slowest,
                "memory_mib": found.memory / (1 << 20),
            }
        )
    return rows
