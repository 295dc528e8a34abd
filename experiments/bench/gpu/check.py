"""Whether the fused kernels are right on this device: checks, and NVIDIA's compute-sanitizer.

`python -m experiments.bench.gpu.check FOLDER` runs all of it and then the benchmark, within eight
minutes, and writes check.json, check.md, gpu.json and gpu.md. It needs no more than jax, numpy and
what it times. With `--dry-run` the portable implementation is checked instead, in small, so that
the program itself can be tried without a GPU; `--one HIDDEN` is what the sanitizer is given.
"""

import argparse
import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from experiments.bench.gpu.checks import CHECKS, Case, Setting, hold
from experiments.files import write_atomically, write_json
from experiments.provenance import provenance

MODULE = "experiments.bench.gpu.check"
DRY = Setting("xla", hidden_sizes=(32,), steps=100, repetitions=3)
LIMIT = 460.0
"""Seconds for everything."""
CHECKS_LIMIT = 170.0
SANITIZER_LIMIT = 90.0
"""Seconds of one run of the sanitizer, which slows a kernel down a hundred times."""


def check(output: Path, setting: Setting | None = None, limit: float = CHECKS_LIMIT) -> bool:
    """Runs all checks within about ``limit`` seconds, then the sanitizer.

    What there is, is written after every check to check.json and check.md.

    Returns:
        Whether nothing failed; what was left out has not.
    """
    setting = setting or Setting()
    result: dict[str, Any] = {**provenance(), "setting": dataclasses.asdict(setting), "checks": []}
    ends = time.monotonic() + limit

    def add(name: str, run: Callable[[], dict[str, Any]]) -> None:
        begun = time.monotonic()
        row: dict[str, Any] = {"check": name}
        try:
            row |= {"outcome": "passed", "found": run()}
        except (NotImplementedError, ModuleNotFoundError) as error:
            row |= {"outcome": "left out", "reason": str(error)}
        # Whatever it is, the checks that follow are to run, and this one is to be reported.
        except Exception as error:
            row |= {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}
        row["seconds"] = round(time.monotonic() - begun, 2)
        result["checks"].append(row)
        print(f"{row['outcome']:9} {row['seconds']:7.2f} s  {name}", flush=True)
        write_json(output / "check.json", result)
        write_atomically(output / "check.md", to_markdown(result))

    def late() -> dict[str, Any]:
        raise NotImplementedError("out of time")

    for one in CHECKS:
        for hidden in setting.hidden_sizes:
            run = functools.partial(one, setting, hidden)
            name = f"{one.__name__.replace('_', ' ')}, hidden size {hidden}"
            add(name, run if time.monotonic() < ends else late)
    with ThreadPoolExecutor() as pool:
        watched = {
            f"compute-sanitizer {tool}, hidden size {hidden}": pool.submit(_sanitize, tool, hidden)
            for tool in ("memcheck", "racecheck")
            for hidden in dict.fromkeys((setting.hidden_sizes[0], setting.hidden_sizes[-1]))
        }
        for name, found in watched.items():
            add(name, found.result)
    return all(row["outcome"] != "failed" for row in result["checks"])


def to_markdown(result: dict[str, Any]) -> str:
    """The checks as a table."""
    lines = [
        f"Checks of {result['setting']['implementation']} on {result['device']['kind']}, jax "
        f"{result['versions']['jax']}, revision {result['git_revision'][:10]}.",
        "",
        "| check | outcome | found | s |",
        "| --- | --- | --- | ---: |",
    ]
    for row in result["checks"]:
        found = row.get("reason") or ", ".join(
            f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row["found"].items()
        )
        found = found.replace("|", "/").replace("\n", " ")
        lines.append(f"| {row['check']} | {row['outcome']} | {found} | {row['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def _sanitize(tool: str, hidden: int) -> dict[str, Any]:
    """Runs one small case under NVIDIA's compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if program is None:
        raise NotImplementedError("compute-sanitizer is not installed")
    if jax.devices()[0].platform != "gpu":
        raise NotImplementedError("there is no GPU")
    # Memory of JAX's own pool would hide what runs beyond an array.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}
    watched = [sys.executable, "-m", MODULE, "--one", str(hidden)]
    try:
        done = subprocess.run(
            [program, "--tool", tool, "--error-exitcode", "86", *watched],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[3],
            timeout=SANITIZER_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise NotImplementedError(f"took more than {SANITIZER_LIMIT:.0f} s") from None
    said = done.stdout + done.stderr
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", said)
    if done.returncode or not summary:
        raise ValueError(f"ended with {done.returncode}: {said.strip()[-1500:]}")
    return {"summary": summary[-1]}


def _main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/check"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--one", type=int)
    options = parser.parse_args()
    begun = time.monotonic()
    if options.one is not None:
        case = Case.draw(3, 17, options.one)
        hold(case.outcome(Setting().implementation), case.exact())
        return 0
    from experiments.bench.gpu.command import SHAPES, parse_shape, require_gpu, run
    from experiments.errors import UserError

    options.folder.mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        return int(not check(options.folder, DRY))
    try:
        require_gpu()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    passed = check(options.folder)
    left = LIMIT - (time.monotonic() - begun)
    shapes = [parse_shape(sizes) for sizes in SHAPES]
    print(run(shapes, 1.0, left, options.folder, f"python -m {MODULE}"))
    return int(not passed)


if __name__ == "__main__":
    sys.exit(_main())
