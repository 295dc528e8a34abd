"""Times GRUs on a GPU, in the precisions that users run them in."""

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
from experiments.bench.timing import time_interleaved
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
    """Times everything within about ``limit`` seconds and returns the report as Markdown.

    The files are written after every size, so an interrupted run loses one size at most.
    """
    deadline = time.monotonic() + limit
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

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    # Ours first. The others are fast, but torch loses all results when it runs out of time.
    for size in sizes:
        add(_time_jax(size, seconds, deadline - limit / 3))
    add(time_torch(sizes, seconds, timeout=left() * 2 / 3))
    return add(time_cudnn(sizes, repeats=20, timeout=left()))


def _time_jax(size: ProblemSize, seconds: float, deadline: float) -> list[dict[str, Any]]:
    """Rows of all variants that run in JAX, in interleaved rounds."""
    problem = make_problem(size)
    variants = jax_gru.variants(problem)
    rows: dict[str, dict[str, Any]] = {
        name: {"implementation": name, "precision": variant.precision, "size": str(size)}
        for name, variant in variants.items()
    }
    if time.monotonic() > deadline:
        return [{**row, "skipped": "out of time"} for row in rows.values()]
    expected = jax_gru.reference(problem)
    runs = {}
    # Nearly all of the time is compilation.
    with ThreadPoolExecutor() as pool:
        ready = {
            name: pool.submit(jax_gru.compile_and_check, variant, problem, expected)
            for name, variant in variants.items()
        }
    for name, found in ready.items():
        try:
            of_variant, rows[name]["errors"] = found.result()
        except (NotImplementedError, ValueError, RuntimeError) as error:
            rows[name]["skipped"] = str(error).splitlines()[0]
            continue
        runs |= {f"{kind} {name}": run for kind, run in of_variant.items()}
    if runs:
        times = time_interleaved(runs, wait=jax.block_until_ready, seconds=seconds)
        for key, summary in times.items():
            kind, name = key.split(" ", 1)
            rows[name][kind] = summary
    return list(rows.values())
