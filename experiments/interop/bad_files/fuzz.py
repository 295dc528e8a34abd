"""Damaged files, and a process in which a reader has to survive them.

`damaged` makes them, and `survey` hands them to `load` in a process of its own, where a crash, a
hang and a flood of memory show: `survey("gru_jax.interop.torch", ".pt", files)`.
"""

import dataclasses
import importlib
import io
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MEMORY = 2 << 30
"""Bytes of address space that a reader may take beyond what it has after its first file."""

ROOT = Path(__file__).parents[3]


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields ``count`` damaged copies, each a function of the seed.

    A third of them are cut short; the others have bits flipped, bytes replaced, numbers made huge,
    or blocks moved, repeated or left out.
    """
    chance = random.Random(seed)
    changes = (_flip, _flip, _overwrite, _enlarge, _shuffle)
    for index in range(count):
        if index % 3 == 0:
            yield data[: chance.randrange(len(data))]
        else:
            yield chance.choice(changes)(bytearray(data), chance)


def damaged_entries(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields valid zip files in which one entry is damaged, which checksums do not tell."""
    entries = unzip(data)
    names = [name for name, entry in entries.items() if entry]
    chance = random.Random(seed)
    for index in range(count):
        name = chance.choice(names)
        *_, entry = damaged(entries[name], 1 + index % 3, chance.randrange(1 << 30))
        yield rezip(entries | {name: entry})


def unzip(data: bytes) -> dict[str, bytes]:
    """The entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    return out.getvalue()


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    size = min(chance.choice((1, 4, 16, 256)), len(data) - at)
    data[at : at + size] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))
    return bytes(data)


def _enlarge(data: bytearray, chance: random.Random) -> bytes:
    """Writes a huge number where a size might stand, in binary or in digits."""
    value = chance.choice((1 << 31, (1 << 31) - 1, (1 << 40), (1 << 62), (1 << 63) - 1))
    digits = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if digits and chance.random() < 0.3:
        at = chance.choice(digits)
        return bytes(data[:at]) + str(value).encode() + bytes(data[at:])
    number = struct.pack("<Q", value)[: chance.choice((4, 8))]
    at = chance.randrange(max(1, len(data) - len(number)))
    data[at : at + len(number)] = number
    return bytes(data)


def _shuffle(data: bytearray, chance: random.Random) -> bytes:
    """Leaves a block out, repeats it, or puts it elsewhere."""
    first, second = sorted(chance.randrange(len(data)) for _ in range(2))
    block, rest = data[first:second], data[:first] + data[second:]
    at = chance.randrange(len(rest) + 1)
    return bytes(
        chance.choice((rest, data[:second] + block + data[second:], rest[:at] + block + rest[at:]))
    )


@dataclasses.dataclass(frozen=True)
class Survey:
    """What became of files.

    Attributes:
        outcomes: of each file: "loaded"; "refused", by a FileError that names the file; or what
            else happened: another error, a crash, a hang. After a crash there are no more.
        slowest: seconds that the slowest took.
        memory: bytes by which the peaks of the process, and of the largest that it started, grew
            after the first file.
    """

    outcomes: list[str]
    slowest: float
    memory: int

    @property
    def loaded(self) -> int:
        """How many files were loaded."""
        return self.outcomes.count("loaded")

    @property
    def refused(self) -> int:
        """How many files were refused in order."""
        return self.outcomes.count("refused")

    @property
    def wrong(self) -> dict[int, str]:
        """Any other outcome, by the file's place."""
        known = ("loaded", "refused")
        return {at: each for at, each in enumerate(self.outcomes) if each not in known}


def survey(
    module: str,
    suffix: str,
    good: bytes,
    files: Iterable[bytes],
    *,
    timeout: float = 60.0,
    options: dict[str, Any] | None = None,
) -> Survey:
    """Hands files to ``load`` of a module of `gru_jax.interop` in a process of its own.

    Args:
        module: its name, as in "gru_jax.interop.torch".
        suffix: of the files' names.
        good: a file that it loads; it comes first.
        files: the damaged ones.
        timeout: seconds without an answer after which a file counts as a hang.
        options: handed to ``load``.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for index, data in enumerate([good, *files]):
            names.append(f"{index}{suffix}")
            Path(folder, names[-1]).write_bytes(data)
        answers, death = _ask(module, folder, names, options or {}, timeout)
    first, *rest = answers
    assert first["outcome"] == "loaded", first
    outcomes = [answer["outcome"] for answer in rest] + [death] * bool(death)
    return Survey(
        outcomes,
        slowest=max((answer["seconds"] for answer in rest), default=0.0),
        memory=max(answer["peak"] for answer in answers) - first["peak"],
    )


def _ask(
    module: str, folder: str, names: list[str], options: dict[str, Any], timeout: float
) -> tuple[list[dict[str, Any]], str]:
    """The answers that came, and how the process ended if it was not in order."""
    request = json.dumps({"module": module, "folder": folder, "names": names, "options": options})
    command = [sys.executable, "-m", "experiments.interop.bad_files.fuzz", request, str(timeout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(answers) < len(names):
        return answers, f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    return answers, ""


def _answer(request: dict[str, Any], timeout: float) -> None:
    """Loads one file after the other, and prints a line of JSON for each."""
    import faulthandler
    import resource

    from gru_jax.interop.files import FileError

    load = importlib.import_module(request["module"]).load
    for index, name in enumerate(request["names"]):
        path = Path(request["folder"], name)
        # Ends the process, from a thread of its own, whatever the reader is stuck in.
        faulthandler.dump_traceback_later(timeout, exit=True)
        began = time.perf_counter()
        try:
            load(path, **request["options"])
            outcome = "loaded"
        except FileError as error:
            outcome = "refused" if str(path) in str(error) else f"does not name the file: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        own, started = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        answer = {
            "outcome": outcome,
            "seconds": time.perf_counter() - began,
            "peak": (own.ru_maxrss + started.ru_maxrss) * 1024,
        }
        print(json.dumps(answer), flush=True)
        if index == 0 and sys.platform == "linux":
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = size + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]), float(sys.argv[2]))
