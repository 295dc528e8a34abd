"""Times GRUs on a GPU, in every precision that users run them in, and writes what it found."""

import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from experiments.bench.baselines import Shape, make_problem
from experiments.bench.command_line import invocation
from experiments.bench.gpu import jax_gru, report
from experiments.bench.gpu.cudnn_gru import time_cudnn
from experiments.bench.gpu.torch_gru import time_torch
from experiments.bench.timing import interleave
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import provenance

SHAPES = (
    "64,512,256,256",
    "64,1024,512,512",
    "32,2048,128,128",
    "1,1024,512,512",
    "128,256,1024,1024",
    "16,1024,768,768",
    "16,3854,128,128",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Times GRUs on a GPU: Flax, ours, torch.nn.GRU, and cuDNN with its algorithm forced.

    What is ours, and Flax, are held against float32 in full precision before they are timed.
    """

    shapes: tuple[str, ...] = SHAPES
    """Batch, time, input and hidden size, as in 64,512,256,256."""
    seconds: float = 2.0
    """Seconds of rounds per shape and framework."""
    minutes: float = 30.0
    """Minutes for everything: what would come later is left out, and the report says so."""
    output: Path | None = None
    """Directory of gpu.json and gpu.md; the default is runs/bench/TIME."""
    check: bool = False
    """Whether to check the fused kernels, too, and write check.json and check.md: values,
    gradients, that nothing races; about three minutes, and nothing is timed if one fails."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: options that will not do, no GPU, or a check that failed.
    """
    import tyro

    options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments bench --gpu",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    shapes = [parse_shape(sizes) for sizes in options.shapes]
    for name in ("seconds", "minutes"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name} is {getattr(options, name)}, but must be above 0.")
    require_gpu()
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    output.mkdir(parents=True, exist_ok=True)
    if options.check:
        from experiments.bench.gpu.check import require_right

        require_right(output)
    command = invocation(["--gpu", *arguments])
    print(run(shapes, options.seconds, options.minutes * 60, output, command))
    print(f"Written to {output}")
    return 0


def parse_shape(sizes: str) -> Shape:
    """A shape from what a user wrote. Raises UserError where it is none."""
    parts = sizes.split(",")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"--shapes has {sizes}, but a shape is batch,time,input,hidden, as in 64,512,256,256."
        )
    return Shape(*map(int, parts))


def require_gpu() -> None:
    """Raises UserError where JAX sees no GPU, of which it is to take what it needs.

    Other processes need memory of it, too: torch, cuDNN and the checks.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UserError(
            f"bench --gpu needs a GPU, and JAX sees a {device.device_kind} here. "
            'On a machine with one: pip install "jax[cuda13]".'
        )


def run(shapes: Sequence[Shape], seconds: float, limit: float, output: Path, command: str) -> str:
    """Times everything, within about ``limit`` seconds, and returns the report as Markdown.

    What there is, is written after every shape, so that nothing is lost to whatever ends a run.
    """
    ends = time.monotonic() + limit
    result = {
        "command": command,
        **provenance(),
        "shapes": [str(shape) for shape in shapes],
        "rows": [],
    }

    def add(rows: list[dict[str, Any]]) -> str:
        result["rows"] += rows
        write_json(output / "gpu.json", result)
        markdown = report.to_markdown(result)
        write_atomically(output / "gpu.md", markdown)
        return markdown

    # First what is quick, and would be lost as a whole where it is cut off.
    add(time_torch(shapes, seconds, timeout=limit / 2))
    for shape in shapes:
        add(_time_jax(shape, seconds, ends - limit / 4))
    return add(time_cudnn(shapes, repeats=20, timeout=max(0.0, ends - time.monotonic())))


def _time_jax(shape: Shape, seconds: float, ends: float) -> list[dict[str, Any]]:
    """Rows of all ways that run in JAX, timed side by side."""
    problem = make_problem(shape)
    ways = jax_gru.ways(problem)
    rows: dict[str, dict[str, Any]] = {
        name: {"contender": name, "precision": way.precision, "shape": str(shape)}
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
