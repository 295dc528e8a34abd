"""Times GRUs on a GPU, in every precision that users run them in, and writes what it found."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from experiments.bench.baselines import make_problem
from experiments.bench.gpu import jax_gru, report
from experiments.bench.gpu.cudnn_gru import time_cudnn
from experiments.bench.gpu.torch_gru import time_torch
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import interleave
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import provenance

SIZES = (
    "64,512,256,256",
    "64,1024,512,512",
    "32,2048,128,128",
    "1,1024,512,512",
    "128,256,1024,1024",
    "16,1024,768,768",
    "16,3854,128,128",
)


def run(
    sizes: Sequence[ProblemSize], seconds: float, limit: float, output: Path, command: str
) -> str:
    """Times everything, within about ``limit`` seconds, and returns the report as Markdown.

    What there is, is written after every size, so that nothing is lost to whatever ends a run.
    """
    ends = time.monotonic() + limit
    result = {
        "command": command,
        **provenance(),
        "sizes": [str(size) for size in sizes],
        "rows": [],
    }

    def add(rows: list[dict[str, Any]]) -> str:
        result["rows"] += rows
        write_json(output / "gpu.json", result)
        markdown = report.to_markdown(result)
        write_atomically(output / "gpu.md", markdown)
        return markdown

    # First what is quick, and would be lost as a whole where it is cut off.
    add(time_torch(sizes, seconds, timeout=limit / 2))
    for size in sizes:
        add(_time_jax(size, seconds, ends - limit / 4))
    return add(time_cudnn(sizes, repeats=20, timeout=max(0.0, ends - time.monotonic())))


def _time_jax(size: ProblemSize, seconds: float, ends: float) -> list[dict[str, Any]]:
    """Rows of all ways that run in JAX, timed side by side."""
    problem = make_problem(size)
    ways = jax_gru.ways(problem)
    rows: dict[str, dict[str, Any]] = {
        name: {"contender": name, "precision": way.precision, "size": str(size)}
        for name, way in ways.items()
    }
    if time.monotonic() > ends:
        return [{**row, "skipped": "out of time"} for row in rows.values()]
    expected = jax_gru.exact(problem)
    runs = {}
    # Nearly all of the time is compilation.
    with ThreadPoolExecutor() as pool:
        ready = {
            name: pool.submit(jax_gru.compiled, way, problem, expected)
            for name, way in ways.items()
        }
    for name, found in ready.items():
        try:
            of_way, rows[name]["errors"] = found.result()
        except (NotImplementedError, ValueError, RuntimeError) as error:
            rows[name]["skipped"] = str(error).splitlines()[0]
            continue
        runs |= {f"{kind} {name}": run for kind, run in of_way.items()}
    if runs:
        times = interleave(runs, wait=jax.block_until_ready, seconds=seconds)
        for key, spread in times.items():
            kind, name = key.split(" ", 1)
            rows[name][kind] = spread
    return list(rows.values())
