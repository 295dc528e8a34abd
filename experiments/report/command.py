"""Reads a folder of runs and comparisons, and writes the page."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_help, program
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.report.collect import collect
from experiments.report.page import render
from experiments.runs import bucket

PROGRAM = f"{program.PROGRAM} report"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes one HTML page with all runs and comparisons below a folder.

    The page is a single self-contained file with embedded plots. Unfinished runs are included, with
    their latest logged step. Links that lead out of the folder, files that are not regular, plots
    above 20 MiB, metrics above 256 MiB and other files above 1 MiB are left out and listed.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Folder with output of `train`, `compare`, `gradients` and `sweep`, or its URL,
    gs://BUCKET/PATH."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """The page; the default is report.html in the folder, unless that is in a bucket."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0, the exit code.

    Files that are corrupted or left out are listed on stderr and on the page; the rest of the page
    is written.

    Raises:
        UserError: an absent folder or one without runs, or a page that cannot be written.
    """
    options = command_help.parse(Options, arguments, "report", "runs")
    bucket.check_output(options.folder, options.output)
    with bucket.read_copy(options.folder) as folder:
        return _report(folder, options.output or folder / "report.html", arguments)


def _report(folder: Path, out: Path, arguments: list[str]) -> int:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"The folder {folder} {what}; expected a folder of runs.")
    experiments, left_out = collect(folder)
    if not experiments:
        raise UserError(f"{folder} holds no runs: it has no config.yaml or compare.json below it.")
    page = bucket.named(
        render(experiments, left_out, folder, f"{PROGRAM} {shlex.join(arguments)}".strip())
    )
    try:
        # Names of files and directories need not be valid Unicode.
        write_atomically(out, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(f"The page {out} cannot be written: {error.strerror}.") from None
    for message in [*left_out, *(text for each in experiments for text in each.messages())]:
        print(bucket.named(message), file=sys.stderr)
    runs = sum(len(experiment.runs) for experiment in experiments)
    print(f"{len(experiments)} experiments, {runs} runs: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
