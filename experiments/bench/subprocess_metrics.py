"""What one contender costs a process of its own: time to the first gradient, and peak memory."""

import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from experiments.bench.baselines import make_problem
from experiments.bench.implementations import make_contender
from experiments.bench.shapes import ProblemSize

MODULE = "experiments.bench.subprocess_metrics"


def measure_process(
    name: str, size: ProblemSize, *, timeout: float = 600
) -> dict[str, float | None]:
    """Runs a contender in a new process.

    Returns:
        "first_ms": from the call until the first gradient is there: tracing, compiling, running.
        "peak_mib": by how much the resident memory grows while a gradient is computed, once
        everything is compiled; None where the system does not tell.

    Raises:
        RuntimeError: if the process fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", MODULE, name, str(size)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed in a process of its own:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(name: str, size: str) -> None:
    contender = make_contender(name, make_problem(ProblemSize.parse(size)))
    if contender.gradient is None:
        raise ValueError(f"{name} has no gradient")
    begin = time.perf_counter()
    contender.gradient()
    first = time.perf_counter() - begin
    before = _settle()
    result = contender.gradient()
    after = _status("VmHWM")
    del result
    peak = None if before is None or after is None else (after - before) / 1024
    print(json.dumps({"first_ms": first * 1e3, "peak_mib": peak}))


def _settle() -> int | None:
    """Gives unused memory back and forgets the peak so far; the resident memory in KiB."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), None)


if __name__ == "__main__":
    _main(*sys.argv[1:])
