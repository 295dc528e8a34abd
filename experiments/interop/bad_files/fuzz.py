"""Fuzzing: corrupts files and loads them in a subprocess.

`corrupt` makes the files. `fuzz` loads them in a subprocess, so that a crash, a hang or excessive
memory use of a reader is detected.
"""

import dataclasses
import importlib
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.interop.bad_files.archives import rezip, unzip

MEMORY = 2 << 30
"""Bytes of address space that a reader may allocate after its first file."""

ROOT = Path(__file__).parents[3]


def corrupt(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields ``count`` corrupted copies, each a function of the seed.

    A third of them are truncated; the others have bits flipped, bytes overwritten, sizes enlarged,
    or byte ranges moved, repeated or removed.
    """
    rng = random.Random(seed)
    changes = (_flip, _flip, _overwrite, _enlarge, _shuffle)
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


@dataclasses.dataclass(frozen=True)
class FuzzReport:
    """What happened to the files.

    Attributes:
        outcomes: of each file: "loaded"; "rejected", by a FileError that names the file; otherwise
            a description of another error, a crash or a hang. After a crash the list ends.
        slowest: seconds of the slowest file.
        memory: bytes by which the peak memory of the process and of its largest subprocess grew
            after the first file.
    """

    outcomes: list[str]
    slowest: float
    memory: int

    @property
    def unexpected(self) -> dict[int, str]:
        """Outcomes other than "loaded" and "rejected", by the file's index."""
        known = ("loaded", "rejected")
        return {at: each for at, each in enumerate(self.outcomes) if each not in known}


def fuzz(
    module: str,
    suffix: str,
    good: bytes,
    files: Iterable[bytes],
    *,
    timeout: float = 60.0,
    options: dict[str, Any] | None = None,
) -> FuzzReport:
    """Loads files with ``load`` of a module of `gru_jax.interop` in a subprocess.

    Args:
        module: name of the module, for example "gru_jax.interop.torch".
        suffix: suffix of the file names.
        good: a valid file, which is loaded first.
        files: contents of the files.
        timeout: seconds after which loading a file counts as a hang.
        options: keyword arguments of ``load``.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for index, data in enumerate([good, *files]):
            names.append(f"{index}{suffix}")
            Path(folder, names[-1]).write_bytes(data)
        answers, failure = _run_process(module, folder, names, options or {}, timeout)
    first, *rest = answers
    assert first["outcome"] == "loaded", first
    outcomes = [answer["outcome"] for answer in rest] + [failure] * bool(failure)
    return FuzzReport(
        outcomes,
        slowest=max((answer["seconds"] for answer in rest), default=0.0),
        memory=max(answer["peak"] for answer in answers) - first["peak"],
    )


def _run_process(
    module: str, folder: str, names: list[str], options: dict[str, Any], timeout: float
) -> tuple[list[dict[str, Any]], str]:
    """The answers, and how the process ended if it failed."""
    request = json.dumps({"module": module, "folder": folder, "names": names, "options": options})
    command = [sys.executable, "-m", "experiments.interop.bad_files.fuzz", request, str(timeout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(answers) < len(names):
        return answers, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return answers, ""


def _load_files(request: dict[str, Any], timeout: float) -> None:
    """Loads one file after the other and prints a line of JSON for each."""
    import faulthandler
    import resource

    from gru_jax.interop.files import FileError

    load = importlib.import_module(request["module"]).load
    for index, name in enumerate(request["names"]):
        path = Path(request["folder"], name)
        # Ends the process from another thread, even if the reader hangs in C code.
        faulthandler.dump_traceback_later(timeout, exit=True)
        begin = time.perf_counter()
        try:
            load(path, **request["options"])
            outcome = "loaded"
        except FileError as error:
            outcome = "rejected" if str(path) in str(error) else f"does not name the file: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        answer = {
            "outcome": outcome,
            "seconds": time.perf_counter() - begin,
            "peak": (own.ru_maxrss + children.ru_maxrss) * 1024,
        }
        print(json.dumps(answer), flush=True)
        if index == 0 and sys.platform == "linux":
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = size + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _load_files(json.loads(sys.argv[1]), float(sys.argv[2]))
