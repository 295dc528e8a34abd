"""Fuzzing: corrupts files and loads them in subprocesses, which are watched.

`corrupt` makes the files. `fuzz` loads them in a subprocess, so that a crash, a hang or excessive
use of memory or time is detected, with the file at fault.
"""

import dataclasses
import itertools
import json
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.interop.bad_files.archives import rezip, unzip

BATCH = 5000
"""Files that one subprocess loads."""

SPARE_BYTES = 64 << 20
SPARE_SECONDS = 5
BYTES_PER_SECOND = 10_000_000
"""The bounds of the readers: 3 times the file and 64 MiB, 5 s and 1 s for each 10 MB."""

ROOT = Path(__file__).parents[3]


def corrupt(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields ``count`` corrupted copies, each a function of the seed.

    A third of them are truncated; the others have bits flipped, bytes overwritten, sizes enlarged,
    fields swapped, or byte ranges moved, repeated or removed.
    """
    rng = random.Random(seed)
    changes = (_flip, _flip, _overwrite, _enlarge, _shuffle, _swap)
    for index in range(count):
        if index % 3 == 0:
            yield data[: rng.randrange(len(data))]
        else:
            yield rng.choice(changes)(bytearray(data), rng)


def corrupt_entries(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields valid zip files with one corrupted entry, which checksums do not detect."""
    entries = unzip(data)
    names = [name for name, entry in entries.items() if entry]
    rng = random.Random(seed)
    for index in range(count):
        name = rng.choice(names)
        *_, entry = corrupt(entries[name], 1 + index % 3, rng.randrange(1 << 30))
        yield rezip(entries | {name: entry})


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    size = min(rng.choice((1, 4, 16, 256)), len(data) - at)
    data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return bytes(data)


def _enlarge(data: bytearray, rng: random.Random) -> bytes:
    """Writes a huge integer where a size might be, in binary or in digits."""
    value = rng.choice((1 << 31, (1 << 31) - 1, (1 << 40), (1 << 62), (1 << 63) - 1))
    digits = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if digits and rng.random() < 0.3:
        at = rng.choice(digits)
        return bytes(data[:at]) + str(value).encode() + bytes(data[at:])
    number = struct.pack("<Q", value)[: rng.choice((4, 8))]
    at = rng.randrange(max(1, len(data) - len(number)))
    data[at : at + len(number)] = number
    return bytes(data)


def _shuffle(data: bytearray, rng: random.Random) -> bytes:
    """Removes, repeats or moves a range of bytes."""
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    moved, rest = data[first:second], data[:first] + data[second:]
    at = rng.randrange(len(rest) + 1)
    return bytes(
        rng.choice((rest, data[:second] + moved + data[second:], rest[:at] + moved + rest[at:]))
    )


def _swap(data: bytearray, rng: random.Random) -> bytes:
    """Swaps two fields of equal size."""
    size = min(rng.choice((1, 4, 8, 32)), len(data) // 2)
    first = rng.randrange(len(data) - 2 * size + 1)
    second = rng.randrange(first + size, len(data) - size + 1)
    one, other = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = other, one
    return bytes(data)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened to one file.

    Attributes:
        result: "loaded"; "rejected", by a FileError that names the file; otherwise a description of
            another error, a crash, a hang, or the bound that was exceeded.
        seconds: processor time of the reader and its subprocess.
        memory: bytes by which their memory grew at most; of a subprocess, beyond what it needs
            for the libraries.
    """

    result: str
    seconds: float = 0.0
    memory: int = 0

    @property
    def is_expected(self) -> bool:
        """Whether the file was loaded or rejected, within the bounds."""
        return self.result in ("loaded", "rejected")


def fuzz(
    module: str,
    suffix: str,
    good: bytes,
    files: Iterable[bytes],
    *,
    timeout: float = 60.0,
) -> Iterator[Outcome]:
    """Loads files with ``load`` of a module, in a subprocess for each :data:`BATCH` of them.

    A subprocess that ends or hangs is replaced by another, which continues with the next file.

    Args:
        module: name of the module, for example "gru_jax.interop.torch".
        suffix: suffix of the file names.
        good: a valid file, which each subprocess loads first.
        files: contents of the files.
        timeout: seconds after which loading a file counts as a hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, f"good{suffix}")
        first.write_bytes(good)
        for index, batch in enumerate(_batches(files)):
            paths = [Path(folder, f"{index}-{at}{suffix}") for at in range(len(batch))]
            for path, data in zip(paths, batch, strict=True):
                path.write_bytes(data)
            left = paths
            while left:
                outcomes, failure = _run_process(module, [first, *left], timeout)
                assert [each.result for each in outcomes[:1]] == ["loaded"], (outcomes, failure)
                outcomes = outcomes[1:] + [Outcome(failure)] * bool(failure)
                for path, outcome in zip(left, outcomes, strict=False):
                    yield within_bounds(outcome, path.stat().st_size)
                left = left[len(outcomes) :]
            for path in paths:
                path.unlink()


def _batches(files: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    iterator = iter(files)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def within_bounds(outcome: Outcome, size: int) -> Outcome:
    """The outcome, which is no expected one if it took more than a reader may."""
    seconds, memory = SPARE_SECONDS + size / BYTES_PER_SECOND, SPARE_BYTES + 3 * size
    if outcome.is_expected and (outcome.seconds > seconds or outcome.memory > memory):
        beyond = (
            f"{outcome.result} {size} bytes with {outcome.seconds:.1f} s and {outcome.memory} bytes"
        )
        return dataclasses.replace(outcome, result=beyond)
    return outcome


def _run_process(module: str, paths: Sequence[Path], timeout: float) -> tuple[list[Outcome], str]:
    """The outcomes, and how the process ended if it did before the last file."""
    request = json.dumps({"module": module, "paths": list(map(str, paths)), "timeout": timeout})
    command = [sys.executable, "-m", "experiments.interop.bad_files.load_files"]
    done = subprocess.run(command, input=request, cwd=ROOT, capture_output=True, text=True)
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    if len(outcomes) < len(paths):
        return outcomes, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return outcomes, ""
