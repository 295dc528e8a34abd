"""Checks of the fused kernels on this device, also under NVIDIA's compute-sanitizer.

Every check runs in a process of its own: a deadlock between the CTAs of a cluster costs only that
check's time, and a device error ends only that process. `python -m experiments.bench.gpu.check
FOLDER` runs small checks of the implementation "xla", which needs no GPU.
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

from experiments.bench.gpu.checks import CHECKS, CheckConfig, smoke
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import provenance

MODULE = "experiments.bench.gpu.check"
SANITIZER = "compute-sanitizer"
DRY = CheckConfig("xla", hidden_sizes=(32,), steps=100, repetitions=3, problems=2)
CHECKS_LIMIT = 170.0
ONE_LIMIT = 90.0
"""Seconds of one check; the sanitizer slows a kernel down by a factor of a hundred."""

Row = dict[str, Any]


def check(output: Path, config: CheckConfig | None = None, limit: float = CHECKS_LIMIT) -> bool:
    """Runs all checks, several at a time, within about ``limit`` seconds.

    check.json and check.md are written after every check.

    Returns:
        Whether no check failed; a skipped check has not failed.
    """
    config = config or CheckConfig()
    result: dict[str, Any] = {**provenance(), "config": dataclasses.asdict(config), "checks": []}
    deadline = time.monotonic() + limit
    # Most of the time is compilation, which uses several cores.
    with ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) // 2))) as pool:
        commands = _commands(config)
        # The sanitizer is reported last but takes longest, so it starts first.
        found = {
            name: pool.submit(_timed, commands[name], deadline)
            for name in sorted(commands, key=lambda name: not name.startswith(SANITIZER))
        }
        for name in commands:
            result["checks"].append({"check": name, **found[name].result()})
            last = result["checks"][-1]
            print(f"{last['outcome']:9} {last['seconds']:7.2f} s  {name}", flush=True)
            write_json(output / "check.json", result)
            write_atomically(output / "check.md", to_markdown(result))
    return all(row["outcome"] != "failed" for row in result["checks"])


def require_checks_pass(output: Path) -> None:
    """Raises UserError if a check fails, because a wrong kernel is not worth timing."""
    if not check(output):
        raise UserError(f"A check failed, so nothing is timed: see {output / 'check.md'}.")


def to_markdown(result: dict[str, Any]) -> str:
    """The checks as a table."""
    lines = [
        f"Checks of {result['config']['implementation']} on {result['device']['kind']}, jax "
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


def run_check(run: Callable[[], dict[str, Any]]) -> Row:
    """Runs a check: the outcome "passed", "skipped" or "failed", and its result or the reason."""
    try:
        return {"outcome": "passed", "found": run()}
    except (NotImplementedError, ModuleNotFoundError) as error:
        return {"outcome": "skipped", "reason": str(error)}
    # Any other error is a failed check, which the report shows.
    except Exception as error:
        return {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}


def run_subprocess(command: Sequence[str] | str, left: float, limit: float = ONE_LIMIT) -> Row:
    """Runs a check in a subprocess and returns its row.

    The last line of the output is the row of :func:`run_check` as JSON, or the summary of the
    sanitizer.

    Args:
        command: the command, or the reason why there is none.
        left: seconds left for all checks; a check that exceeds them is skipped.
        limit: seconds after which a check has failed; under the sanitizer it is skipped.
    """
    if isinstance(command, str):
        return {"outcome": "skipped", "reason": command}
    if left <= 0:
        return {"outcome": "skipped", "reason": "out of time"}
    # With JAX's memory pool the sanitizer would not see accesses beyond the end of an array.
    sanitized = command[0] != sys.executable
    memory = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"} if sanitized else {}
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
        has_failed = left >= limit and not sanitized
        reason = f"not done after {min(left, limit):.0f} s"
        return {"outcome": "failed" if has_failed else "skipped", "reason": reason}
    if sanitized:
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", done.stdout + done.stderr)
        if not done.returncode and summary:
            return {"outcome": "passed", "found": {"summary": summary[-1]}}
    elif not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    output = (done.stdout + done.stderr).strip()[-1500:]
    return {"outcome": "failed", "reason": f"exit code {done.returncode}: {output}"}


def _timed(command: Sequence[str] | str, deadline: float) -> Row:
    begun = time.monotonic()
    row = run_subprocess(command, deadline - begun)
    return row | {"seconds": round(time.monotonic() - begun, 2)}


def _commands(config: CheckConfig) -> dict[str, Sequence[str] | str]:
    """The command of each check by its name, the largest size last, or why there is no command."""

    def command_of(one: Callable[..., Any], hidden: int) -> list[str]:
        fields = json.dumps(dataclasses.asdict(config))
        return [sys.executable, "-m", MODULE, "--one", one.__name__, str(hidden), fields]

    commands: dict[str, Sequence[str] | str] = {
        f"{one.__name__.replace('_', ' ')}, hidden size {hidden}": command_of(one, hidden)
        for one in CHECKS
        if config.checks is None or one.__name__ in config.checks
        for hidden in config.hidden_sizes
    }
    if not config.sanitize:
        return commands
    program = shutil.which(SANITIZER) or shutil.which(SANITIZER, path="/usr/local/cuda/bin")
    reason = None
    if program is None:
        reason = f"{SANITIZER} is not installed"
    elif jax.devices()[0].platform != "gpu":
        reason = "there is no GPU"
    for tool in ("memcheck", "racecheck"):
        for hidden in dict.fromkeys((config.hidden_sizes[0], config.hidden_sizes[-1])):
            sanitizer = [str(program), "--tool", tool, "--error-exitcode", "86"]
            commands[f"{SANITIZER} {tool}, hidden size {hidden}"] = reason or [
                *sanitizer,
                *command_of(smoke, hidden),
            ]
    return commands


def _one(name: str, hidden: str, config: str) -> Row:
    """Runs one check in this process."""
    functions = {one.__name__: one for one in (*CHECKS, smoke)}
    fields = json.loads(config)
    for field, value in fields.items():
        fields[field] = tuple(value) if isinstance(value, list) else value
    return run_check(functools.partial(functions[name], CheckConfig(**fields), int(hidden)))


def _main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/check"))
    parser.add_argument("--one", nargs=3, metavar=("CHECK", "HIDDEN", "CONFIG"))
    options = parser.parse_args()
    if options.one is not None:
        row = _one(*options.one)
        print(json.dumps(row))
        # The sanitizer does not report a call that raised an exception.
        return int(row["outcome"] != "passed" and options.one[0] == smoke.__name__)
    options.folder.mkdir(parents=True, exist_ok=True)
    return int(not check(options.folder, DRY))


if __name__ == "__main__":
    sys.exit(_main())
