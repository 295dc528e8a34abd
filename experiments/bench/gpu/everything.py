"""Everything that is to be known of the kernels on a GPU, within eight minutes.

`python -m experiments bench --gpu --all` runs this, and so does `python -m
experiments.bench.gpu.everything FOLDER`, which needs only jax, NumPy and what it times, and the
extra `experiments` for the training runs. The most important part comes first, and each writes its
files: a run that is cut off leaves what it had. A failed check ends nothing. A program whose
results are wrong is not timed.
"""

import argparse
import sys
import time
from pathlib import Path

from experiments.bench.gpu.benchmark import run
from experiments.bench.gpu.check import check
from experiments.bench.gpu.checks import CheckConfig
from experiments.bench.gpu.device import require_gpu
from experiments.bench.gpu.training import time_trainings
from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError

LIMIT = 460.0
"""Seconds for everything."""

QUICK = ("values_and_gradients", "is_deterministic")
SIZES_CHECKED = (64, 192)

CHECKS = {
    "one-block-float32": (
        CheckConfig(hidden_sizes=SIZES_CHECKED, dtype="float32", sanitize=False),
        90.0,
    ),
    "one-block-float32-sizes": (
        CheckConfig(hidden_sizes=(5, 100, 128), dtype="float32", checks=QUICK, sanitize=False),
        20.0,
    ),
    "one-block-bfloat16": (
        CheckConfig(hidden_sizes=(5, 100, 192), checks=QUICK, sanitize=False),
        30.0,
    ),
    "one-block-float16": (
        CheckConfig(hidden_sizes=(17, 128), dtype="float16", checks=QUICK, sanitize=False),
        20.0,
    ),
}
"""By folder, checks of calls that the one-block kernels run on every GPU, and their seconds."""

SANITIZER = {
    "one-block-sanitizer": (
        CheckConfig(hidden_sizes=SIZES_CHECKED, dtype="float32", checks=()),
        95.0,
    ),
}
"""After the times."""

TRAINING_SECONDS = 60.0
"""For the training runs, which come then."""

HOPPER = {"hopper": (CheckConfig(), LIMIT)}
"""In what is left: these kernels have passed on a device before."""

LEFT = 155.0
"""Seconds that the times leave for the rest."""

SIZES = (
    "1,512,64,64",
    "32,2048,128,128",
    "128,128,64,64",
    "1024,128,128,128",
    "128,64,32,32",
    "32,256,64,128",
    "4096,64,128,128",
    "128,1,64,64",
    "64,512,256,256",
    "64,1024,512,512",
)
"""What float32 users run comes first, then reinforcement learning, a single step, and the kernels
for Hopper."""


def run_everything(output: Path, command: str) -> bool:
    """Runs all parts, checks in subfolders of ``output``. Returns whether no check failed."""
    deadline = time.monotonic() + LIMIT
    passed = _check(output, CHECKS, deadline)
    sizes = list(map(ProblemSize.parse, SIZES))
    print(run(sizes, 1.0, deadline - time.monotonic() - LEFT, output, command))
    passed = _check(output, SANITIZER, deadline) and passed
    print(time_trainings(output, min(TRAINING_SECONDS, deadline - time.monotonic()), command))
    passed = _check(output, HOPPER, deadline) and passed
    print(f"Written to {output}")
    return passed


def _check(output: Path, parts: dict[str, tuple[CheckConfig, float]], deadline: float) -> bool:
    passed = []
    for name, (config, limit) in parts.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        passed.append(check(folder, config, min(limit, deadline - time.monotonic())))
    return all(passed)


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
