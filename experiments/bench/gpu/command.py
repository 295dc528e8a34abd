"""The command line of `bench --gpu`."""

import dataclasses
import time
from pathlib import Path

from experiments.bench.command_line import invocation, parse_size
from experiments.bench.gpu.benchmark import SIZES, run
from experiments.bench.gpu.check import require_checks_pass
from experiments.bench.gpu.device import require_gpu
from experiments.bench.gpu.everything import run_everything
from experiments.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Times GRUs on a GPU: Flax, ours, torch.nn.GRU, and cuDNN with a forced algorithm.

    Our results and Flax's are compared with float32 in full precision before they are timed.
    """

    sizes: tuple[str, ...] = SIZES
    """Batch, time, input and hidden size, as in 64,512,256,256."""
    seconds: float = 2.0
    """Seconds of rounds per size and framework."""
    minutes: float = 30.0
    """Minutes for everything; the report names what was skipped."""
    output: Path | None = None
    """Directory of gpu.json and gpu.md; the default is runs/bench/TIME."""
    check: bool = False
    """Whether to check the fused kernels first, and write check.json and check.md: values,
    gradients and races, in about three minutes. If a check fails, nothing is timed."""
    all: bool = False
    """Whether to check and time everything, one-block kernels first, within eight minutes; the
    other options but --output do not apply."""


def main(arguments: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 1 if a check of --all failed.

    Raises:
        UserError: if an option is invalid, there is no GPU, or a check fails.
    """
    import tyro

    from experiments import command_help

    off = (tyro.conf.FlagCreatePairsOff,)
    options = command_help.parse(Options, arguments, "bench --gpu", "--all", config=off)
    sizes = [parse_size("sizes", text) for text in options.sizes]
    for name in ("seconds", "minutes"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name} is {getattr(options, name)}, but must be above 0.")
    require_gpu()
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    output.mkdir(parents=True, exist_ok=True)
    command = invocation(["--gpu", *arguments])
    if options.all:
        return int(not run_everything(output, command))
    if options.check:
        require_checks_pass(output)
    print(run(sizes, options.seconds, options.minutes * 60, output, command))
    print(f"Written to {output}")
    return 0
