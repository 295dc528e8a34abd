"""Compares the speed of this checkout's `gru_jax` with that of another checkout."""

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from experiments import command_help
from experiments.bench.command_line import invocation, parse_size
from experiments.bench.revisions import file_loads
from experiments.bench.revisions.measure import CASES, Rounds, measure, summarize_rounds
from experiments.bench.revisions.report import to_markdown
from experiments.errors import UserError
from experiments.markdown import write_report
from experiments.runs.provenance import git_state, provenance
from experiments.suggest import did_you_mean

Size = TypeVar("Size")

HERE = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the speed of this revision with an older one's: running, tracing and compiling.

    Each revision runs on the CPU in a process of its own, in interleaved rounds. A second process
    of the old revision is the control: the ratio of its times to the first one's is noise.
    """

    revisions: Path
    """A checkout of the older revision, for example a git worktree."""
    sizes: tuple[str, ...] = ()
    """Batch, time, input and hidden size, as in 32,256,64,128, of a GRU; the default is the
    report's sizes, and starts, lengths, an LSTM and a bidirectional stack at one size each."""
    cases: tuple[str, ...] = ()
    """Which cases to measure, by their names in the tables, without sizes; the default is all."""
    minutes: float = 10.0
    """Time limit in minutes."""
    files: bool = False
    """Whether to time loads of weight files instead: for each format and size the first load in a
    process, and the next ones. `.pt` files only if PyTorch is installed."""
    passes: int = 1
    """How often everything is measured, with new processes each time: the memory layout of a
    process affects its speed as long as it lives."""
    output: Path | None = None
    """Directory of revisions.json and revisions.md, with --files file_loads.json and file_loads.md;
    the default is runs/bench/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: if an option is invalid, a process fails, or the time is too short.
    """
    options = command_help.parse(Options, arguments, "bench", "--revisions ../older")
    if options.minutes <= 0:
        raise UserError(f"--minutes is {options.minutes}, but must be above 0.")
    if options.passes < 1:
        raise UserError(f"--passes is {options.passes}, but must be at least 1.")
    sizes = [parse_size("sizes", text) for text in options.sizes]
    folder = options.revisions.resolve()
    if not (folder / "gru_jax" / "__init__.py").is_file():
        raise UserError(
            f"--revisions is {options.revisions}, which is not a checkout of gru_jax: "
            "it has no gru_jax/__init__.py."
        )
    if options.files and sizes:
        raise UserError("--sizes is of sequences; with --files the sizes are those of the report.")
    folders = {"old": folder, "new": HERE, "control": folder}
    if options.files:
        cases = _chosen(file_loads.cases(), options.cases)
        measure_once = functools.partial(file_loads.measure, folders, cases)
    else:
        known = [("GRU", size) for size in sizes] or list(CASES)
        cases = _chosen(known, options.cases)
        measure_once = functools.partial(measure, folders, cases)
    found: dict[str, Rounds] = {}
    begin = time.monotonic()
    for index in range(options.passes):
        deadline = begin + options.minutes * 60 * (index + 1) / options.passes
        rows = measure_once(deadline)
        bar = tqdm(rows, total=len(cases), unit="case", disable=not sys.stderr.isatty())
        for title, rounds in bar:
            of_title = found.setdefault(title, {metric: [] for metric in rounds})
            for metric, values in rounds.items():
                of_title[metric] += values
    if not found:
        raise UserError(f"Nothing was measured within --minutes {options.minutes}.")

    result = {
        "command": invocation(arguments),
        **provenance(),
        "revisions": {role: git_state(folders[role]) for role in ("old", "new")},
        "cases": {
            title: {metric: summarize_rounds(values) for metric, values in rounds.items()}
            for title, rounds in found.items()
        },
        "not_measured": [f"{name} {size}" for name, size in cases[len(found) :]],
    }
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    name = "file_loads" if options.files else "revisions"
    write_report(output, name, result, to_markdown(result))
    return 0


def _chosen(known: list[tuple[str, Size]], names: Sequence[str]) -> list[tuple[str, Size]]:
    """The cases of these names, or all. Raises UserError if there is none of a name."""
    there = list(dict(known))
    for name in names:
        if name not in there:
            raise UserError(
                f"There is no case {name!r} here.{did_you_mean(name, there)} "
                f"There are {', '.join(there)}."
            )
    return [case for case in known if not names or case[0] in names]
