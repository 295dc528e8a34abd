"""The command line of `bench`: runs the benchmarks and writes JSON, a table and plots."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from experiments import command_help
from experiments.bench import cells, implementations, layers, music, report, streaming
from experiments.bench.baselines import make_problem
from experiments.bench.command_line import invocation, parse_size
from experiments.bench.matmul_bound import time_matmuls
from experiments.bench.shapes import CPU_SIZES, ProblemSize
from experiments.bench.subprocess_metrics import measure_process
from experiments.bench.timing import time_interleaved
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.markdown import write_report
from experiments.runs.provenance import provenance
from experiments.suggest import did_you_mean

LONG = "32,10000,64,256"
LAYERS = "32,256,64,128"
CELLS = "32,256,64,128"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times our GRU, the installed baselines, and the GRU's matmuls without anything else.

    All run in one process, in interleaved rounds, so compare times of one run only. `pip install
    -e ".[bench]"` installs the baselines. Outputs and gradients are compared with ours before
    anything is timed. `bench --gpu`, `bench --rl`, `bench --devices` and `bench --revisions
    OLD_CHECKOUT` are other benchmarks, with options of their own.
    """

    sizes: tuple[str, ...] = CPU_SIZES
    """Batch, time, input and hidden size, as in 32,256,64,128."""
    implementations: tuple[str, ...] = ()
    """Which implementations to time, by their names in the table; the default is all."""
    seconds: float = 20.0
    """Seconds of rounds per size and direction."""
    processes: bool = True
    """Whether to measure peak memory and the time to the first gradient, in separate processes."""
    long: str | None = LONG
    """Size at which the peak memory of our `checkpoint` options is measured; or None."""
    layers: str | None = LAYERS
    """Size at which one and two layers, unidirectional and bidirectional, are timed; or None."""
    cells: str | None = CELLS
    """Size at which GRU, LSTM and plain RNN are compared; or None."""
    matmuls: bool = True
    """Whether to time each matmul by itself: a lower bound of the times."""
    streaming: bool = True
    """Whether to time a single step."""
    music: bool = True
    """Whether to time training on the JSB Chorales, whose data must be in --data-dir."""
    output: Path | None = None
    """Directory of bench.json, bench.md and the plots; the default is runs/bench/TIME."""
    data_dir: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: $GRU_JAX_DATA)")] = (
        dataclasses.field(default_factory=default_data_dir)
    )
    """Directory of data files."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        0, the exit code.

    Raises:
        UserError: if an option is invalid, or a baseline computes another function than ours.
    """
    off = (tyro.conf.FlagConversionOff,)
    example = "--sizes 32,256,64,128"
    options = command_help.parse(Options, arguments, "bench", example, config=off, is_compact=True)
    sizes = [parse_size("sizes", text) for text in options.sizes]
    long = None if options.long is None else parse_size("long", options.long)
    of_layers = None if options.layers is None else parse_size("layers", options.layers)
    of_cells = None if options.cells is None else parse_size("cells", options.cells)
    names = _names(options.implementations)
    if options.seconds <= 0:
        raise UserError(f"--seconds is {options.seconds}, but must be above 0.")
    if options.music:
        # Missing data would otherwise be reported after a quarter of an hour.
        music.check(options.data_dir)
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))

    result = {
        "command": invocation(arguments),
        **provenance(),
        "implementations": {name: implementations.known_implementations()[name] for name in names},
        "sizes": [dataclasses.asdict(size) for size in sizes],
        **_time_implementations(sizes, names, options),
    }
    if options.matmuls:
        result["matmuls"] = {str(size): time_matmuls(size, options.seconds / 4) for size in sizes}
    ours = [name for name in implementations.OURS if name in names]
    if long is not None and ours:
        result["long"] = {str(long): {name: measure_process(name, long) for name in ours}}
    if of_layers is not None:
        result["layers"] = {str(of_layers): layers.time_layers(of_layers, options.seconds)}
    if of_cells is not None:
        result["cells"] = {str(of_cells): cells.time_cells(of_cells, options.seconds)}
    if options.streaming:
        result["streaming"] = streaming.time_batches(options.seconds / 2)
    if options.music:
        result["music"] = music.time_training(options.data_dir, options.seconds)

    output.mkdir(parents=True, exist_ok=True)
    report.plot(result, output / "bench.png")
    for size, kinds in result.get("cells", {}).items():
        cells.plot(kinds, f"The three cells at {size}", output / "cells.png")
    write_report(output, "bench", result, report.to_markdown(result))
    return 0


def _time_implementations(
    sizes: list[ProblemSize], names: list[str], options: Options
) -> dict[str, Any]:
    """Times all implementations on all sizes: "forward", "gradient" and "process", by size."""
    found: dict[str, Any] = {"forward": {}, "gradient": {}, "process": {}}
    bar = tqdm(sizes, unit="size", disable=not sys.stderr.isatty())
    for size in bar:
        bar.set_postfix_str(str(size))
        ready = implementations.make_implementations(names, make_problem(size))
        forward = {name: implementation.forward for name, implementation in ready.items()}
        gradient = {
            name: implementation.gradient
            for name, implementation in ready.items()
            if implementation.gradient is not None
        }
        found["forward"][str(size)] = time_interleaved(forward, seconds=options.seconds)
        found["gradient"][str(size)] = time_interleaved(gradient, seconds=options.seconds)
        if options.processes:
            found["process"][str(size)] = {name: measure_process(name, size) for name in gradient}
    return found


def _names(requested: tuple[str, ...]) -> list[str]:
    known = list(implementations.known_implementations())
    for name in requested:
        if name not in known:
            raise UserError(
                f"There is no implementation {name} here.{did_you_mean(name, known)} "
                f"Those that can be timed are {', '.join(known)}; "
                'pip install -e ".[bench]" installs the baselines.'
            )
    return list(requested) or known
