"""Whether the fused kernels are right on this device: checks, and NVIDIA's compute-sanitizer.

`python -m experiments.bench.gpu.check FOLDER` runs all of it and, where nothing failed, the
benchmark, within eight minutes, and writes check.json, check.md, gpu.json and gpu.md. It needs no
more than jax, numpy and what it times. Every check is a process of its own: blocks of a cluster
that wait for one another for ever cost that check its time, and a device that a kernel has left in
an error is another one's. With `--dry-run` the portable implementation is checked instead, in
small, so that the program itself can be tried without a GPU.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from experiments.bench.gpu.benchmark import SIZES, run
from experiments.bench.gpu.checks import CHECKS, Setting, one_call
from experiments.bench.gpu.device import require_gpu
from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import provenance

MODULE = "experiments.bench.gpu.check"
SANITIZER = "compute-sanitizer"
DRY = Setting("xla", hidden_sizes=(32,), steps=100, repetitions=3)
LIMIT = 440.0
"""Seconds for everything."""
CHECKS_LIMIT = 170.0
ONE_LIMIT = 90.0
"""Seconds of one check; the sanitizer slows a kernel down a hundred times."""

Row = dict[str, Any]


def check(output: Path, setting: Setting | None = None, limit: float = CHECKS_LIMIT) -> bool:
    """Runs all checks, some at a time, within about ``limit`` seconds.

    What there is, is written after every check to check.json and check.md.

    Returns:
        Whether nothing failed; what was left out has not.
    """
    setting = setting or Setting()
    result: dict[str, Any] = {**provenance(), "setting": dataclasses.asdict(setting), "checks": []}
    ends = time.monotonic() + limit
    # Compilation takes most of the time, of a process and of the machine.
    with ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) // 2))) as pool:
        commands = _commands(setting)
        # The sanitizer, which is last, takes longest: it begins first, and the others go beside it.
        found = {
            name: pool.submit(_timed, commands[name], ends)
            for name in sorted(commands, key=lambda name: not name.startswith(SANITIZER))
        }
        for name in commands:
            result["checks"].append({"check": name, **found[name].result()})
            last = result["checks"][-1]
            print(f"{last['outcome']:9} {last['seconds']:7.2f} s  {name}", flush=True)
            write_json(output / "check.json", result)
            write_atomically(output / "check.md", to_markdown(result))
    return all(row["outcome"] != "failed" for row in result["checks"])


def require_right(output: Path) -> None:
    """Raises UserError where a check fails: what is wrong, or hangs, is not timed."""
    if not check(output):
        raise UserError(f"A check failed, so that nothing is timed: see {output / 'check.md'}.")


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


def outcome_of(run: Callable[[], dict[str, Any]]) -> Row:
    """What became of a check: passed, left out or failed, and what it found or why."""
    try:
        return {"outcome": "passed", "found": run()}
    except (NotImplementedError, ModuleNotFoundError) as error:
        return {"outcome": "left out", "reason": str(error)}
    # Whatever it is, this check is to be reported.
    except Exception as error:
        return {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}


def in_a_process(command: Sequence[str] | str, left: float, limit: float = ONE_LIMIT) -> Row:
    """The outcome of a check that is run by a command; a string says why there is none.

    What it prints last is :func:`outcome_of` as JSON, or, under the sanitizer, its summary.

    Args:
        command: what to run.
        left: seconds for this check and those after it: nothing has failed where they run out.
        limit: seconds after which it has failed; the sanitizer may be that slow.
    """
    if isinstance(command, str):
        return {"outcome": "left out", "reason": command}
    if left <= 0:
        return {"outcome": "left out", "reason": "out of time"}
    # Memory of JAX's own pool would hide from the sanitizer what runs beyond an array.
    watched = command[0] != sys.executable
    memory = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"} if watched else {}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **memory},
            cwd=Path(__file__).parents[3],
            timeout=min(left, limit),
        )
    except subprocess.TimeoutExpired:
        has_failed = left >= limit and not watched
        reason = f"not done after {min(left, limit):.0f} s"
        return {"outcome": "failed" if has_failed else "left out", "reason": reason}
    if watched:
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", done.stdout + done.stderr)
        if not done.returncode and summary:
            return {"outcome": "passed", "found": {"summary": summary[-1]}}
    elif not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    said = (done.stdout + done.stderr).strip()[-1500:]
    return {"outcome": "failed", "reason": f"ended with {done.returncode}: {said}"}


def _timed(command: Sequence[str] | str, ends: float) -> Row:
    begun = time.monotonic()
    row = in_a_process(command, ends - begun)
    return row | {"seconds": round(time.monotonic() - begun, 2)}


def _commands(setting: Setting) -> dict[str, Sequence[str] | str]:
    """By name what runs each check, the largest size last; a string says why nothing does."""

    def alone(one: Callable[..., Any], hidden: int) -> list[str]:
        words = json.dumps(dataclasses.asdict(setting))
        return [sys.executable, "-m", MODULE, "--one", one.__name__, str(hidden), words]

    commands: dict[str, Sequence[str] | str] = {
        f"{one.__name__.replace('_', ' ')}, hidden size {hidden}": alone(one, hidden)
        for one in CHECKS
        for hidden in setting.hidden_sizes
    }
    program = shutil.which(SANITIZER) or shutil.which(SANITIZER, path="/usr/local/cuda/bin")
    reason = None
    if program is None:
        reason = f"{SANITIZER} is not installed"
    elif jax.devices()[0].platform != "gpu":
        reason = "there is no GPU"
    for tool in ("memcheck", "racecheck"):
        for hidden in dict.fromkeys((setting.hidden_sizes[0], setting.hidden_sizes[-1])):
            watch = [str(program), "--tool", tool, "--error-exitcode", "86"]
            commands[f"{SANITIZER} {tool}, hidden size {hidden}"] = reason or [
                *watch,
                *alone(one_call, hidden),
            ]
    return commands


def _one(name: str, hidden: str, setting: str) -> Row:
    """Runs one check here and now."""
    functions = {one.__name__: one for one in (*CHECKS, one_call)}
    words = json.loads(setting)
    words["hidden_sizes"] = tuple(words["hidden_sizes"])
    return outcome_of(functools.partial(functions[name], Setting(**words), int(hidden)))


def _main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/check"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("CHECK", "HIDDEN", "SETTING"))
    options = parser.parse_args()
    begun = time.monotonic()
    if options.one is not None:
        row = _one(*options.one)
        print(json.dumps(row))
        # The sanitizer says nothing of a call that did not come to its end.
        return int(row["outcome"] != "passed" and options.one[0] == one_call.__name__)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        return int(not check(options.folder, DRY))
    try:
        require_gpu()
        require_right(options.folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    left = LIMIT - (time.monotonic() - begun)
    print(
        run(list(map(ProblemSize.parse, SIZES)), 1.0, left, options.folder, f"python -m {MODULE}")
    )
    return 0


if __name__ == "__main__":
    sys.exit(_main())
