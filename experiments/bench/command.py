"""Measures what the options ask for, and writes it as JSON, as a table and as a plot."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tqdm import tqdm

from experiments.bench import cells, layers, music, report, streaming
from experiments.bench import implementations as contenders
from experiments.bench.baselines import make_problem
from experiments.bench.command_line import invocation, parse_size
from experiments.bench.matmul_bound import time_parts
from experiments.bench.shapes import CPU_SIZES, ProblemSize
from experiments.bench.subprocess_metrics import measure_process
from experiments.bench.timing import interleave
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.runs.provenance import provenance
from experiments.suggest import did_you_mean

LONG = "32,10000,64,256"
LAYERS = "32,256,64,128"
CELLS = "32,256,64,128"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times our GRU beside the peers that are installed and the matrix products alone.

    All run in one process, in rounds; what counts are ratios from one run. `pip install -e
    ".[bench]"` installs the peers. Outputs and gradients are held against ours before anything
    is timed. `bench --gpu` times GRUs on a GPU, and has options of its own.
    """

    sizes: tuple[str, ...] = CPU_SIZES
    """Batch, time, input and hidden size, as in 32,256,64,128."""
    contenders: tuple[str, ...] = ()
    """Which to time, by the names in the table; the default is all that are installed."""
    seconds: float = 20.0
    """Seconds of rounds per size and direction."""
    processes: bool = True
    """Whether to measure peak memory and time to the first gradient, in a process for each."""
    long: str | None = LONG
    """Size at which our ways of keeping less memory are measured, in processes; or None."""
    layers: str | None = LAYERS
    """Size at which one layer and two, in one direction and both, are timed; or None."""
    cells: str | None = CELLS
    """Size at which GRU, LSTM and plain RNN are held against each other; or None."""
    products: bool = True
    """Whether to time each kind of product by itself: what bounds the figures."""
    streaming: bool = True
    """Whether to time a single step."""
    music: bool = True
    """Whether to time training on the JSB Chorales, which must be in --data-dir."""
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
        UserError: options that will not do, or a peer that computes something else than we do.
    """
    options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments bench",
        config=(tyro.conf.FlagConversionOff,),
    )
    sizes = [parse_size("sizes", text) for text in options.sizes]
    long = None if options.long is None else parse_size("long", options.long)
    layered = None if options.layers is None else parse_size("layers", options.layers)
    of_cells = None if options.cells is None else parse_size("cells", options.cells)
    names = _names(options.contenders)
    if options.seconds <= 0:
        raise UserError(f"--seconds is {options.seconds}, but must be above 0.")
    if options.music:
        # It comes last, a quarter of an hour from now.
        music.check(options.data_dir)
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))

    result = {
        "command": invocation(arguments),
        **provenance(),
        "contenders": {name: contenders.known_contenders()[name] for name in names},
        "sizes": [dataclasses.asdict(size) for size in sizes],
        **_time_contenders(sizes, names, options),
    }
    if options.products:
        result["products"] = {str(size): time_parts(size, options.seconds / 4) for size in sizes}
    ours = [name for name in contenders.OURS if name in names]
    if long is not None and ours:
        result["long"] = {str(long): {name: measure_process(name, long) for name in ours}}
    if layered is not None:
        result["layers"] = {str(layered): layers.time_layers(layered, options.seconds)}
    if of_cells is not None:
        result["cells"] = {str(of_cells): cells.time_cells(of_cells, options.seconds)}
    if options.streaming:
        result["streaming"] = streaming.time_batches(options.seconds / 2)
    if options.music:
        result["music"] = music.time_training(options.data_dir, options.seconds)

    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "bench.json", result)
    markdown = report.to_markdown(result)
    write_atomically(output / "bench.md", markdown)
    report.draw(result, output / "bench.png")
    for size, kinds in result.get("cells", {}).items():
        cells.draw(kinds, f"The three cells at {size}", output / "cells.png")
    Console(soft_wrap=True, highlight=False, markup=False).print(markdown)
    print(f"Written to {output}")
    return 0


def _time_contenders(
    sizes: list[ProblemSize], names: list[str], options: Options
) -> dict[str, Any]:
    """Times all contenders on all sizes: "forward", "gradient" and "process", by size."""
    found: dict[str, Any] = {"forward": {}, "gradient": {}, "process": {}}
    bar = tqdm(sizes, unit="size", disable=not sys.stderr.isatty())
    for size in bar:
        bar.set_postfix_str(str(size))
        ready = contenders.make_contenders(names, make_problem(size))
        forward = {name: contender.forward for name, contender in ready.items()}
        gradient = {
            name: contender.gradient
            for name, contender in ready.items()
            if contender.gradient is not None
        }
        found["forward"][str(size)] = interleave(forward, seconds=options.seconds)
        found["gradient"][str(size)] = interleave(gradient, seconds=options.seconds)
        if options.processes:
            found["process"][str(size)] = {name: measure_process(name, size) for name in gradient}
    return found


def _names(asked: tuple[str, ...]) -> list[str]:
    known = list(contenders.known_contenders())
    for name in asked:
        if name not in known:
            raise UserError(
                f"There is no contender {name} here.{did_you_mean(name, known)} "
                f"Those that can be timed are {', '.join(known)}; "
                'pip install -e ".[bench]" installs the peers.'
            )
    return list(asked) or known
