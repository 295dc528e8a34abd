"""Measures how long revisions take to load weight files: first in a process, and again."""

import contextlib
import importlib.util
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.bench.revisions.measure import Rounds, case_deadline
from experiments.bench.revisions.process import RevisionProcess
from experiments.bench.timing import shuffled_rounds
from experiments.interop.bad_files.formats import FORMATS

METRICS = ("first load", "repeated load")
SIZES = ("0.3 MB", "5 MB", "50 MB")
SECONDS, MIN_REPEATS = 0.5, 4
MIN_ROUNDS = 3


def cases() -> list[tuple[str, str]]:
    """Names of formats in :data:`FORMATS`, each with the sizes of its files.

    Earlier revisions read `.pt` files through PyTorch.
    """
    formats = ["own_safetensors", "torch_safetensors", "keras_h5", "keras_archive"]
    formats += ["onnx_model", "program"]
    if importlib.util.find_spec("torch"):
        formats.append("torch_pt")
    return [(name, size) for name in formats for size in SIZES]


def num_bytes(size: str) -> int:
    """The bytes of one of :data:`SIZES`."""
    return round(float(size.removesuffix(" MB")) * 1e6)


def measure(
    folders: Mapping[str, Path], cases: list[tuple[str, str]], deadline: float
) -> Iterator[tuple[str, Rounds]]:
    """Measures one case after the other until the deadline, with an equal share of the time each.

    Args:
        folders: checkouts by role. Each role has a new process in each round.
        cases: names of formats, and sizes as in :data:`SIZES`.
        deadline: the `time.monotonic()` at which measuring stops.

    Yields:
        The title and the rounds of each case that was completed.
    """
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(TimeoutError):
        for index, (name, size) in enumerate(cases):
            until = case_deadline(deadline, len(cases) - index)
            file_format = FORMATS[name](Path(temporary))
            path = Path(temporary, f"{name}{file_format.suffix}")
            path.write_bytes(file_format.large(num_bytes(size)))
            rounds: Rounds = {metric: [] for metric in METRICS}
            for order in shuffled_rounds(list(folders), until, MIN_ROUNDS):
                times = {
                    role: _load(folders[role], file_format.module, path, deadline) for role in order
                }
                for metric in METRICS:
                    rounds[metric].append({role: times[role][metric] for role in order})
            yield f"{name} {size}", rounds


def _load(folder: Path, module: str, path: Path, deadline: float) -> dict[str, float]:
    """Milliseconds of a new process by metric."""
    with RevisionProcess(folder, deadline) as process:
        process.check()
        first, *repeated = process.ask("load", module, str(path), SECONDS, MIN_REPEATS)
    return dict(zip(METRICS, (first, statistics.median(repeated)), strict=True))
