"""cuDNN's GRU with a forced algorithm: a C program that is compiled where it runs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench.shapes import ProblemSize

ALGORITHMS = ("standard", "persist_static", "persist_small_h")
PRECISIONS = {
    "float32 (TF32)": "tf32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}
SOURCE = Path(__file__).with_name("cudnn_gru.c")


def time_cudnn(sizes: Sequence[ProblemSize], repeats: int, timeout: float) -> list[dict[str, Any]]:
    """Times every algorithm in every precision and returns the report's rows.

    Args:
        sizes: the problem sizes.
        repeats: number of calls that are averaged.
        timeout: seconds for everything; the rows of what was skipped say so.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "cudnn_gru"
        reason, libraries = _compile(program)
        rows = []
        for size in sizes:
            for algorithm in ALGORITHMS:
                for precision, name in PRECISIONS.items():
                    if reason is None:
                        arguments = [*str(size).split(","), algorithm, name, str(repeats)]
                        found = _run(
                            [str(program), *arguments], libraries, deadline - time.monotonic()
                        )
                    else:
                        found = {"skipped": reason}
                    of_row = {"implementation": f"cuDNN {algorithm}", "precision": precision}
                    rows.append({**of_row, "size": str(size), **found})
    return rows


def _run(command: list[str], libraries: list[Path], timeout: float) -> dict[str, Any]:
    if timeout <= 0:
        return {"skipped": "out of time"}
    paths = [*map(str, libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"skipped": "out of time"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"skipped": lines[-1]}
    return {kind: {"median": value} for kind, value in json.loads(done.stdout).items()}


def _compile(program: Path) -> tuple[str | None, list[Path]]:
    """Compiles the program; returns the reason why it failed or None, and the library folders."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "there is no C compiler", []
    header = _find("cudnn.h", ("nvidia/*/include", "include"))
    if header is None:
        return "there is no cudnn.h; the wheel nvidia-cudnn-cu13 contains it", []
    # cuda_runtime.h includes this header first, but some packages have only one of the two.
    runtime = _find("crt/host_config.h", ("nvidia/*/include", "include"))
    if runtime is None:
        return "there is no crt/host_config.h; the CUDA toolkit contains it", []
    libraries = [
        library
        for library in (
            _find("libcudnn.so*", ("nvidia/*/lib", "lib", "lib64", "lib/x86_64-linux-gnu")),
            _find("libcudart.so*", ("nvidia/*/lib", "lib", "lib64", "lib/x86_64-linux-gnu")),
        )
        if library is not None
    ]
    if len(libraries) < 2:
        return "there is no libcudnn.so, or no libcudart.so", []
    done = subprocess.run(
        [
            *(compiler, "-O2", "-o", str(program), str(SOURCE)),
            *(f"-I{folder}" for folder in (header.parent, runtime.parents[1])),
            *(f"-L{path.parent}" for path in libraries),
            *(f"-l:{path.name}" for path in libraries),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        error = next((line for line in lines if "error" in line), lines[0])
        return f"{compiler} failed: {error}", []
    return None, [path.parent for path in libraries]


def _find(name: str, folders: Sequence[str]) -> Path | None:
    """Finds a file in Python's packages, otherwise in the system."""
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    roots = [*map(Path, packages), Path("/usr/local/cuda"), Path("/usr/local"), Path("/usr")]
    for root in roots:
        for folder in folders:
            found = sorted(root.glob(f"{folder}/{name}"))
            if found:
                return found[0]
    return None
