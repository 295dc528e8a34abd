"""Reads a folder of runs and comparisons, and writes the page."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.report.collect import collect
from experiments.report.page import render

PROGRAM = "python -m experiments report"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes one HTML page over all runs and comparisons below a folder.

    The page is a single file that needs no network: plots are embedded, so that it is a third
    larger than they are together. Runs that are under way are in it, with the step they are at.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Where to look for what `train`, `compare`, `gradients` and `sweep` wrote."""
    out: Path | None = None
    """The page; the default is report.html in the folder."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0, the exit code.

    What is damaged is named on stderr and on the page, and the rest of the page is made.

    Raises:
        UserError: a folder that is not there or holds no runs, or a page that cannot be written.
    """
    options = tyro.cli(Options, args=arguments, prog=PROGRAM)
    if not options.folder.is_dir():
        what = "is a file" if options.folder.exists() else "is not there"
        raise UserError(f"The folder {options.folder} {what}; a folder of runs was expected.")
    experiments = collect(options.folder)
    if not experiments:
        raise UserError(
            f"{options.folder} holds no runs: there is no config.yaml or compare.json below it."
        )
    page = render(experiments, options.folder, f"{PROGRAM} {shlex.join(arguments)}".strip())
    out = options.out or options.folder / "report.html"
    try:
        # A name that is no text, such as a directory's, must not cost the page.
        write_atomically(out, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(f"The page {out} cannot be written: {error.strerror}.") from None
    for experiment in experiments:
        for fault in experiment.all_faults():
            print(fault, file=sys.stderr)
    runs = sum(len(experiment.runs) for experiment in experiments)
    print(f"{len(experiments)} experiments, {runs} runs: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
