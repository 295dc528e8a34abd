"""The command line of `interop`: measures conversions, reads bad files, writes JSON and tables."""

import dataclasses
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from experiments.errors import UserError
from experiments.interop import report
from experiments.interop.bad_files.formats import FORMATS, SLOW
from experiments.interop.frameworks import FRAMEWORKS
from experiments.interop.measurements import Measurement, all_measurements
from experiments.markdown import write_report
from experiments.runs.provenance import provenance


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts weights between gru_jax and the installed libraries, in both directions.

    Each model runs in both libraries with the same inputs and states; the largest difference is
    reported. Then corrupted and adversarial files are read in a subprocess. `pip install -e
    ".[interop,experiments]"` installs the libraries.
    """

    seeds: int = 5
    """Number of random weights and inputs that each conversion is measured with."""
    files: int = 3000
    """Number of corrupted files of each format; with 0 no bad files are read."""
    slow_files: int = 1000
    """The same number for formats that need a process for each file."""
    seed: int = 0
    """Seed of the corruption."""
    output: Path | None = None
    """Directory of interop.json and interop.md; the default is runs/interop/TIME."""


@dataclasses.dataclass(frozen=True)
class FuzzOptions:
    """Reads corrupted and adversarial files of every format in subprocesses with limits.

    The files are a function of the seed. The exit code is 1 if a reader did anything but load a
    file or raise a FileError that names it.
    """

    files: int = 20000
    """Number of corrupted files of each format."""
    slow_files: int = 20000
    """The same number for formats that need a process for each file."""
    seed: int = 0
    """Seed of the corruption."""
    output: Path | None = None
    """Directory of fuzz.json and fuzz.md; the default is runs/fuzz/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: if an option is invalid.
    """
    if arguments[:1] == ["fuzz"]:
        return _fuzz(arguments[1:])
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
        "measurements": _measure_all(options.seeds),
        "files": _read_files(options) if options.files else [],
    }
    write_report(output, "interop", result, report.to_markdown(result))
    return 0


def _measure_all(seeds: int) -> list[dict[str, Any]]:
    bar = tqdm(all_measurements(), unit="conversion", disable=not sys.stderr.isatty())
    return [_measure(measurement, seeds) for measurement in bar]


def _measure(measurement: Measurement, seeds: int) -> dict[str, Any]:
    return {
        "library": measurement.name,
        "variant": measurement.variant,
        "direction": measurement.direction,
        "dtype": measurement.dtype,
        "error": max(measurement.measure(seed) for seed in range(seeds)),
    }


def _fuzz(arguments: list[str]) -> int:
    options = tyro.cli(FuzzOptions, args=arguments, prog="python -m experiments interop fuzz")
    for name in ("files", "slow_files"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(options, name)}, but must be 1 at least.")
    output = options.output or Path("runs", "fuzz", time.strftime("%Y%m%d-%H%M%S"))
    result = {
        "command": shlex.join(["python", "-m", "experiments", "interop", "fuzz", *arguments]),
        **provenance(),
        "files": _read_files(options),
    }
    write_report(output, "fuzz", result, report.files_to_markdown(result))
    return int(any(row["unexpected"] for row in result["files"]))


def _read_files(options: Options | FuzzOptions) -> list[dict[str, Any]]:
    rows = []
    for name in tqdm(FORMATS, unit="format", disable=not sys.stderr.isatty()):
        with tempfile.TemporaryDirectory() as folder:
            try:
                file_format = FORMATS[name](Path(folder))
            except ImportError:
                # The library that writes such files is not installed.
                continue
            count = options.slow_files if name in SLOW else options.files
            fuzzed = file_format.fuzz(
                [*file_format.adversarial.values(), *file_format.corrupted(count, options.seed)]
            )
        num_adversarial = len(file_format.adversarial)
        rows.append(
            {
                "format": file_format.name,
                "adversarial": num_adversarial,
                "adversarial_rejected": fuzzed.outcomes[:num_adversarial].count("rejected"),
                "corrupted": count,
                "corrupted_rejected": fuzzed.outcomes[num_adversarial:].count("rejected"),
                "corrupted_loaded": fuzzed.outcomes[num_adversarial:].count("loaded"),
                "unexpected": len(fuzzed.unexpected),
                "slowest_seconds": fuzzed.slowest,
                "memory_mib": fuzzed.memory / (1 << 20),
            }
        )
    return rows
