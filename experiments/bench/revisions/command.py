"""Compares the speed of this checkout's `gru_jax` with that of another checkout."""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import tyro
from rich.console import Console
from tqdm import tqdm

from experiments.bench.command_line import invocation, parse_size
from experiments.bench.revisions.measure import CASES, measure
from experiments.bench.revisions.process import RevisionProcess
from experiments.bench.revisions.report import to_markdown
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import git_state, provenance

HERE = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Options:
    """Times this revision and an older one: running, tracing and compiling, on the CPU.

    Each revision runs in a long-lived process of its own. A second process of the old one is the
    control: its times over the first one's are noise.
    """

    revisions: Path
    """A checkout of the older revision, for example a git worktree."""
    sizes: tuple[str, ...] = ()
    """Batch, time, input and hidden size, as in 32,256,64,128, of GRUs alone; the default is the
    report's sizes, and starts, lengths, an LSTM and a bidirectional stack at one size."""
    minutes: float = 10.0
    """Minutes that all of it may take."""
    output: Path | None = None
    """Directory of revisions.json and revisions.md; the default is runs/bench/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: options that will not do, a process that fails, or too little time.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments bench")
    if options.minutes <= 0:
        raise UserError(f"--minutes is {options.minutes}, but must be above 0.")
    sizes = [parse_size("sizes", text) for text in options.sizes]
    folder = options.revisions.resolve()
    if not (folder / "gru_jax" / "__init__.py").is_file():
        raise UserError(
            f"--revisions is {options.revisions}, which is not a checkout of gru_jax: "
            "it has no gru_jax/__init__.py."
        )
    deadline = time.monotonic() + options.minutes * 60
    cases = [("GRU", size) for size in sizes] or list(CASES)
    folders = {"old": folder, "new": HERE, "control": folder}
    found = {}
    with contextlib.ExitStack() as stack:
        processes = {
            role: stack.enter_context(RevisionProcess(folder, deadline))
            for role, folder in folders.items()
        }
        with contextlib.suppress(TimeoutError):
            jax_versions = {role: process.check() for role, process in processes.items()}
            rows = measure(processes, cases, deadline)
            bar = tqdm(rows, total=len(cases), unit="case", disable=not sys.stderr.isatty())
            found.update(bar)
    if not found:
        raise UserError(f"Nothing was measured within --minutes {options.minutes}.")

    result = {
        "command": invocation(arguments),
        **provenance(),
        "revisions": {
            role: {**git_state(folders[role]), "jax": jax_versions[role]} for role in ("old", "new")
        },
        "cases": found,
        "not_measured": [f"{name} {size}" for name, size in cases[len(found) :]],
    }
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "revisions.json", result)
    markdown = to_markdown(result)
    write_atomically(output / "revisions.md", markdown)
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {output}")
    return 0
