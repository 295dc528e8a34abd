"""torch.nn.GRU on a GPU, timed in a process of its own.

Two frameworks in one process would share its memory and its libraries.
"""

# torch comes with the extra `bench`; if it is not installed, its rows are skipped.
# pyright: reportMissingImports=false

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import time_interleaved

MODULE = "experiments.bench.gpu.torch_gru"
PRECISIONS = ("float32", "float32 (TF32)", "float16", "bfloat16")


def time_torch(
    sizes: Sequence[ProblemSize], seconds: float, timeout: float
) -> list[dict[str, Any]]:
    """Times torch.nn.GRU in all precisions and returns the report's rows."""
    if importlib.util.find_spec("torch") is None:
        return _skipped(sizes, "torch is not installed")
    try:
        done = subprocess.run(
            [sys.executable, "-m", MODULE, str(seconds), *map(str, sizes)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            # This process imports JAX but must not use the GPU through it.
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return _skipped(sizes, f"took more than {timeout:.0f} s")
    if done.returncode:
        return _skipped(sizes, done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _skipped(sizes: Sequence[ProblemSize], reason: str) -> list[dict[str, Any]]:
    return [
        {
            "implementation": "torch.nn.GRU",
            "precision": precision,
            "size": str(size),
            "skipped": reason,
        }
        for size in sizes
        for precision in PRECISIONS
    ]


def _main(seconds: float, sizes: Sequence[ProblemSize]) -> None:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU")
    rows = []
    for size in sizes:
        for precision in PRECISIONS:
            row = {"implementation": "torch.nn.GRU", "precision": precision, "size": str(size)}
            try:
                times = _time(size, precision, seconds)
            except (RuntimeError, ValueError) as error:
                rows.append({**row, "skipped": str(error).splitlines()[0]})
            else:
                rows.append({**row, **times})
    print(json.dumps(rows))


def _time(size: ProblemSize, precision: str, seconds: float) -> dict[str, Any]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "float32 (TF32)"
    torch.backends.cudnn.allow_tf32 = precision == "float32 (TF32)"
    dtype = torch.float32 if precision.startswith("float32") else getattr(torch, precision)
    torch.manual_seed(0)
    module = torch.nn.GRU(size.input, size.hidden).to("cuda", dtype)
    xs = torch.randn(
        size.time, size.batch, size.input, device="cuda", dtype=dtype, requires_grad=True
    )
    weights = torch.randn(size.time, size.batch, size.hidden, device="cuda", dtype=dtype)

    def forward() -> None:
        with torch.no_grad():
            module(xs)

    def gradient() -> None:
        module.zero_grad(set_to_none=True)
        xs.grad = None
        (module(xs)[0] * weights).sum().backward()

    return time_interleaved(
        {"forward": forward, "gradient": gradient},
        wait=lambda _: torch.cuda.synchronize(),
        seconds=seconds,
    )


if __name__ == "__main__":
    _main(float(sys.argv[1]), list(map(ProblemSize.parse, sys.argv[2:])))
