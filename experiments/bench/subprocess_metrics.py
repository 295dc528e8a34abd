"""Metrics that need a process for each implementation: time to the first gradient, peak memory."""

import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from experiments.bench.baselines import make_problem
from experiments.bench.implementations import make_implementation
from experiments.bench.shapes import ProblemSize

MODULE = "experiments.bench.subprocess_metrics"


def measure_process(
    name: str, size: ProblemSize, *, timeout: float = 600
) -> dict[str, float | None]:
    """Runs an implementation in a new process.

    Returns:
        "first_ms": the time until the first gradient is computed: tracing, compiling, running.
        "peak_mib": growth of the resident memory while a gradient is computed, after compiling;
        None if the system does not report it.

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
        raise RuntimeError(f"The process of {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(name: str, size: str) -> None:
    implementation = make_implementation(name, make_problem(ProblemSize.parse(size)))
    if implementation.gradient is None:
        raise ValueError(f"{name} has no gradient")
    begin = time.perf_counter()
    implementation.gradient()
    first = time.perf_counter() - begin
    before = _reset_peak()
    result = implementation.gradient()
    after = _status("VmHWM")
    del result
    peak = None if before is None or after is None else (after - before) / 1024
    print(json.dumps({"first_ms": first * 1e3, "peak_mib": peak}))


def _reset_peak() -> int | None:
    """Frees unused memory and resets the peak; returns the resident memory in KiB."""
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
