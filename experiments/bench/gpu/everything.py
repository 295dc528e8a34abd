"""Everything that is to be known of the kernels on a GPU, within eight minutes.

`python -m experiments bench --gpu --all` runs this, and so does `python -m
experiments.bench.gpu.everything FOLDER`, which needs only jax, NumPy and what it times. The most
important part comes first, and each writes its files: a run that is cut off leaves what it had. A
failed check ends nothing. A program whose results are wrong is not timed.
"""

import argparse
import sys
import time
from pathlib import Path

from experiments.bench.gpu.benchmark import run
from experiments.bench.gpu.check import check
from experiments.bench.gpu.checks import CheckConfig
from experiments.bench.gpu.device import require_gpu
from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError

LIMIT = 460.0
"""Seconds for everything."""

ONE_BLOCK = (
    ("one-block-float32", CheckConfig(hidden_sizes=(64, 100, 128), dtype="float32"), 130.0),
    (
        "one-block-bfloat16",
        CheckConfig(hidden_sizes=(5, 100), checks=("values_and_gradients", "is_deterministic")),
        30.0,
    ),
    (
        "one-block-float16",
        CheckConfig(hidden_sizes=(17, 128), dtype="float16", checks=("values_and_gradients",)),
        20.0,
    ),
)
"""Checks of calls that the one-block kernels run on every GPU: a folder, what, seconds."""

HOPPER_LIMIT = 80.0
"""Seconds that are left for the checks of the kernels for Hopper."""

SIZES = (
    "1,512,64,64",
    "32,2048,128,128",
    "128,128,64,64",
    "1024,128,128,128",
    "128,64,32,32",
    "32,256,64,128",
    "4096,64,128,128",
    "64,512,256,256",
    "64,1024,512,512",
)
"""What float32 users run comes first, then reinforcement learning, then the kernels for Hopper."""


def run_everything(output: Path, command: str) -> bool:
    """Runs all parts in subfolders of ``output``. Returns whether no check failed."""
    deadline = time.monotonic() + LIMIT
    passed = []
    for folder, config, limit in ONE_BLOCK:
        passed.append(_check(output / folder, config, limit))
    left = deadline - time.monotonic() - HOPPER_LIMIT
    print(run(list(map(ProblemSize.parse, SIZES)), 1.0, left, output, command))
    passed.append(_check(output / "hopper", CheckConfig(), deadline - time.monotonic()))
    print(f"Written to {output}")
    return all(passed)


def _check(output: Path, config: CheckConfig, limit: float) -> bool:
    output.mkdir(parents=True, exist_ok=True)
    return check(output, config, limit)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        require_gpu()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return int(not run_everything(folder, "python -m experiments bench --gpu --all"))


if __name__ == "__main__":
    sys.exit(_main())
