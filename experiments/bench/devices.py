"""`bench --devices`: the work of each device where a batch is sharded over several."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.bench.command_line import invocation, parse_size
from experiments.bench.hlo_work import work_of
from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError
from experiments.markdown import markdown_table, write_report
from experiments.runs.provenance import provenance

SIZES = ("1024,64,64,128", "4096,64,64,128")
COUNTS = (1, 2, 4)
EXPLICIT, AUTO, TENSOR = "explicit", "auto", "tensor"
LAYOUTS = {
    EXPLICIT: "The batch sharded over an explicit axis:",
    AUTO: "The batch sharded over an automatic axis:",
    TENSOR: "Parameters sharded over an explicit axis (tensor parallel), the batch not:",
}
MODULE = "experiments.bench.devices"


@dataclasses.dataclass(frozen=True)
class Options:
    """Counts the work of each device for the gradient of a GRU that is spread over several.

    It counts FLOPs, bytes and collectives in the compiled programs. Without GPUs these are for four
    virtual devices of the CPU, one core each. With several GPUs the gradient is also timed.
    """

    sizes: tuple[str, ...] = SIZES
    """Batch, time, input and hidden size; a run with four times the steps is counted, too."""
    output: Path | None = None
    """Directory of devices.json and devices.md; the default is runs/bench/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: if an option is invalid.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments bench --devices")
    sizes = [parse_size("sizes", text) for text in options.sizes]
    for size in sizes:
        if size.batch % max(COUNTS):
            raise UserError(
                f"--sizes: the batch must be a multiple of {max(COUNTS)}, got {size.batch}."
            )
    measured = {str(size): measure(size) for size in sizes}
    command = invocation(["--devices", *arguments])
    result = {"command": command, **provenance(), "sizes": measured}
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    write_report(output, "devices", result, to_markdown(result))
    return 0


def measure(size: ProblemSize) -> dict[str, Any]:
    """Measures in a new process, whose number of virtual devices can still be set.

    Raises:
        RuntimeError: if the process fails.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(size)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": flags.strip()},
        timeout=1800,
    )
    if done.returncode:
        raise RuntimeError(f"The process failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(text: str) -> None:
    # A device runs one loop then: of a batch in shards for several cores, XLA does not know how
    # often a loop runs.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import gru_jax

    size = ProblemSize.parse(text)
    params = gru_jax.init(jax.random.key(0), size.input, size.hidden)
    is_real = jax.default_backend() != "cpu"

    @jax.jit
    def gradient(params: gru_jax.GRUParams, xs: jax.Array) -> Any:
        return jax.grad(lambda params: (gru_jax.unroll(params, xs)[1] ** 2).mean())(params)

    def measure_on(layout: str, count: int, steps: int, batch: int) -> dict[str, Any]:
        axis_type = AxisType.Auto if layout == AUTO else AxisType.Explicit
        devices = jax.devices()[:count]
        mesh = jax.make_mesh((count,), ("data",), axis_types=(axis_type,), devices=devices)
        whole = NamedSharding(mesh, PartitionSpec())
        columns = NamedSharding(mesh, PartitionSpec(None, "data"))
        of_matrices, of_inputs = (columns, whole) if layout == TENSOR else (whole, columns)
        placed = jax.tree.map(
            lambda leaf: jax.device_put(leaf, of_matrices if leaf.ndim == 2 else whole), params
        )
        shape = (steps, batch, size.input)
        with jax.set_mesh(mesh):
            xs = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=of_inputs)
            compiled = gradient.lower(placed, xs).compile()
            work = dataclasses.asdict(work_of(compiled.as_text() or ""))
            if is_real:
                zeros = jax.device_put(jnp.zeros(shape), of_inputs)
                work["ms"] = 1e3 * _seconds(lambda: jax.block_until_ready(compiled(placed, zeros)))
        return work

    counts = [count for count in COUNTS if count <= jax.device_count()]

    def measure_beside_shard(layout: str, count: int, steps: int) -> dict[str, Any]:
        work = measure_on(layout, count, steps, size.batch)
        if layout != TENSOR:
            alone = measure_on(layout, 1, steps, size.batch // count)
            work["shard_bytes_written"] = alone["bytes_written"]
        return work

    found = {
        layout: {
            str(steps): {str(count): measure_beside_shard(layout, count, steps) for count in counts}
            for steps in (size.time, 4 * size.time)
        }
        for layout in LAYOUTS
    }
    kind = jax.devices()[0].device_kind
    print(json.dumps({"device_kind": kind, "work": found}))


def _seconds(run: Any, rounds: int = 10) -> float:
    run()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def to_markdown(result: dict[str, Any]) -> str:
    """The report."""
    kinds = {measured["device_kind"] for measured in result["sizes"].values()}
    lines = [
        "# Work of each device",
        "",
        f"`{result['command']}`, jax {result['versions']['jax']}, {', '.join(kinds)}.",
        "",
        "The gradient of a GRU with respect to its parameters, in float32. Counted in the compiled",
        "program of one device, with its loops' trip counts. Shares are of one device's work.",
        "",
        "The column *of a shard* relates the bytes to those of one device that has the",
        "sequences of a shard and no more. What is above 1 there is the price of several devices.",
        "What a share of bytes has above 1/n otherwise is a property of one device, which writes",
        "slightly fewer bytes for a sequence if it has more of them.",
    ]
    for size, measured in result["sizes"].items():
        batch, _, features, hidden = size.split(",")
        lines += ["", f"## {batch} sequences, {features} features, {hidden} units"]
        for layout, by_steps in measured["work"].items():
            lines += ["", LAYOUTS[layout], "", _table(by_steps)]
    return "\n".join([*lines, ""])


def _table(by_steps: dict[str, Any]) -> str:
    rows = []
    for steps, by_count in by_steps.items():
        one = by_count["1"]
        for count, work in by_count.items():
            flops, written = (work[key] / one[key] for key in ("flops", "bytes_written"))
            rows.append(
                [
                    steps,
                    count,
                    f"{work['flops'] / 1e9:.2f}",
                    f"{flops:.3f}",
                    f"{work['bytes_written'] / 1e6:.0f}",
                    f"{written:.3f}",
                    *(
                        [f"{work['bytes_written'] / work['shard_bytes_written']:.3f}"]
                        if "shard_bytes_written" in work
                        else []
                    ),
                    str(work["collectives"]),
                    str(work["collectives_in_loops"]),
                    *([f"{work['ms']:.2f}"] if "ms" in work else []),
                ]
            )
    work = next(iter(by_steps.values()))["1"]
    header = ["steps", "devices", "GFLOP", "share", "MB written", "share"]
    header += ["of a shard"] if "shard_bytes_written" in work else []
    header += ["collectives", "in loops", *(["ms"] if "ms" in work else [])]
    return markdown_table(header, rows)


if __name__ == "__main__":
    _main(*sys.argv[1:])
