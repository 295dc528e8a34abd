"""The command line of `bench --gpu`."""

import dataclasses
import time
from pathlib import Path

from experiments.bench.command_line import invocation, parse_size
from experiments.bench.gpu.benchmark import SIZES, run
from experiments.bench.gpu.check import require_right
from experiments.bench.gpu.device import require_gpu
from experiments.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Times GRUs on a GPU: Flax, ours, torch.nn.GRU, and cuDNN with its algorithm forced.

    What is ours, and Flax, are held against float32 in full precision before they are timed.
    """

    sizes: tuple[str, ...] = SIZES
    """Batch, time, input and hidden size, as in 64,512,256,256."""
    seconds: float = 2.0
    """Seconds of rounds per size and framework."""
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
    sizes = [parse_size("sizes", text) for text in options.sizes]
    for name in ("seconds", "minutes"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name} is {getattr(options, name)}, but must be above 0.")
    require_gpu()
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    output.mkdir(parents=True, exist_ok=True)
    if options.check:
        require_right(output)
    command = invocation(["--gpu", *arguments])
    print(run(sizes, options.seconds, options.minutes * 60, output, command))
    print(f"Written to {output}")
    return 0
