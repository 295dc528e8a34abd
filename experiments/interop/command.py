"""The command line of `interop`: measures conversions, reads bad files, writes JSON and tables."""

import collections
import dataclasses
import itertools
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import command_help
from experiments.errors import UserError
from experiments.files import write_json
from experiments.interop import report
from experiments.interop.bad_files.formats import FORMATS, Format
from experiments.interop.bad_files.fuzz import Outcome
from experiments.interop.frameworks import FRAMEWORKS
from experiments.interop.measurements import Measurement, all_measurements
from experiments.markdown import write_report
from experiments.program import PROGRAM
from experiments.runs.provenance import provenance
from experiments.suggest import did_you_mean


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts weights between gru_jax and the installed libraries, in both directions.

    Each model runs in both libraries with the same inputs and states; the largest difference is
    reported. `pip install -e ".[interop,experiments]"` installs the libraries. `interop fuzz` reads
    bad files.
    """

    seeds: int = 5
    """Number of random weights and inputs that each conversion is measured with."""
    output: Path | None = None
    """Directory of interop.json and interop.md; the default is runs/interop/TIME."""


@dataclasses.dataclass(frozen=True)
class FuzzOptions:
    """Reads bad files of every format in subprocesses with limits, and a large valid one.

    Bad files are adversarial, made by hand; constructed, valid containers with random adversarial
    content; and corrupted copies of a valid file. They are a function of the seed. The exit code is
    1 if a reader did anything but load a file or raise a FileError that names it, within the bounds
    on memory and time; such files are written to the output.
    """

    files: int = 20000
    """Number of corrupted files of each format."""
    constructed: int = 200
    """Number of constructed files of each format."""
    large_mb: int = 100
    """Size of the valid file, in 10^6 bytes."""
    seed: int = 0
    """Seed of the files."""
    formats: tuple[str, ...] = ()
    """Names of formats to read; the default is all. Rows of others in --output are kept."""
    output: Path | None = None
    """Directory of fuzz.json and fuzz.md; the default is runs/fuzz/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 1 if a reader did with a bad file what it must not, otherwise 0.

    Raises:
        UserError: if an option is invalid.
    """
    if arguments[:1] == ["fuzz"]:
        return _fuzz(arguments[1:])
    options = command_help.parse(Options, arguments, "interop", "--seeds 10")
    _check_positive(options, "seeds")
    output = options.output or Path("runs", "interop", time.strftime("%Y%m%d-%H%M%S"))
    result = {
        "command": f"{PROGRAM} {shlex.join(['interop', *arguments])}",
        **provenance(),
        "libraries": {
            framework.distribution: framework.version
            for framework in FRAMEWORKS.values()
            if framework.version
        },
        "seeds": options.seeds,
        "measurements": _measure_all(options.seeds),
    }
    write_report(output, "interop", result, report.to_markdown(result))
    return 0


def _check_positive(options: Options | FuzzOptions, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(options, name)}, but must be 1 at least.")


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
    options = command_help.parse(FuzzOptions, arguments, "interop fuzz", "--files 1000")
    _check_positive(options, "files", "constructed", "large_mb")
    for name in options.formats:
        if name not in FORMATS:
            raise UserError(
                f"--formats has {name}, but should have some of {', '.join(FORMATS)}."
                f"{did_you_mean(name, FORMATS)}"
            )
    output = options.output or Path("runs", "fuzz", time.strftime("%Y%m%d-%H%M%S"))
    command = f"{PROGRAM} {shlex.join(['interop', 'fuzz', *arguments])}"
    result: dict[str, Any] = {"command": command, **provenance(), "files": []}
    rows: dict[str, Any] = {}
    if options.formats and (output / "fuzz.json").exists():
        earlier = json.loads((output / "fuzz.json").read_text())
        origin = {key: earlier[key] for key in ("command", "git_revision")}
        rows = {row["format"]: origin | row for row in earlier["files"]}
    for name in options.formats or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                file_format = FORMATS[name](Path(folder))
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            origin = {key: result[key] for key in ("command", "git_revision")}
            rows[file_format.name] = origin | _read_files(file_format, options, output / "findings")
        result["files"] = list(rows.values())
        # A campaign takes hours: what was read until an interruption is in the file.
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "fuzz.json", result)
    write_report(output, "fuzz", result, report.fuzz_to_markdown(result))
    return int(any(row["unexpected"] for row in result["files"]))


def _read_files(file_format: Format, options: FuzzOptions, findings: Path) -> dict[str, Any]:
    """A row of the report; writes the files whose outcome is unexpected."""
    large = file_format.large(options.large_mb * 1_000_000)
    kinds: dict[str, Iterable[bytes]] = {
        "valid": [large],
        "adversarial": file_format.adversarial.values(),
        "constructed": file_format.constructed(options.constructed, options.seed),
        "corrupted": file_format.corrupted(options.files, options.seed),
    }
    labelled = ((kind, data) for kind, files in kinds.items() for data in files)
    labelled, again = itertools.tee(labelled)
    outcomes = file_format.fuzz(data for _, data in labelled)
    bar = tqdm(outcomes, file_format.name, unit="file", disable=not sys.stderr.isatty())
    by_kind: dict[str, list[Outcome]] = {kind: [] for kind in kinds}
    unexpected = []
    for (kind, data), outcome in zip(again, bar, strict=True):
        if not outcome.is_expected:
            unexpected.append(f"{kind} {len(by_kind[kind])}: {outcome.result}")
            findings.mkdir(parents=True, exist_ok=True)
            name = file_format.name.partition(":")[0]
            path = findings / f"{name}-{len(unexpected)}{file_format.suffix}"
            path.write_bytes(data)
        by_kind[kind].append(outcome)
    return {
        "format": file_format.name,
        "valid_bytes": len(large),
        **{kind: _count(outcomes) for kind, outcomes in by_kind.items()},
        "unexpected": unexpected,
    }


def _count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    results = collections.Counter(outcome.result for outcome in outcomes)
    return {
        "files": len(outcomes),
        "rejected": results["rejected"],
        "loaded": results["loaded"],
        "seconds": max(outcome.seconds for outcome in outcomes),
        "mib": max(outcome.memory for outcome in outcomes) / (1 << 20),
    }
