"""Reads HDF5 files as `gru_jax.interop.hdf5` does, each in a fork of one process.

The reader's program takes longer to start than to read a small file. This module is also a program:
it imports the reader and forks for each request. A request is the path of the content. The answer
is a line of JSON, then what the reader wrote.
"""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


class Hdf5Forks:
    """The process that forks, started when the first file is read; a context manager.

    Attributes:
        seconds: processor time of all forks.
        memory: bytes by which the largest fork grew.
    """

    def __init__(self):
        self.seconds = 0.0
        self.memory = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Hdf5Forks":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.communicate()

    def run(
        self, command: list[str], data: bytes | memoryview, seconds: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Stands in for the function of `gru_jax.interop.hdf5` that starts the reader."""
        del seconds
        if self._process is None:
            self._process = subprocess.Popen(
                [*command[:-1], __file__, command[-1]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        requests: Any = self._process.stdin
        answers: Any = self._process.stdout
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            requests.write(file.name.encode() + b"\n")
            requests.flush()
            answer = json.loads(answers.readline())
            out = answers.read(answer["size"])
        self.seconds += answer["seconds"]
        self.memory = max(self.memory, answer["memory"])
        return subprocess.CompletedProcess(command, answer["code"], out)


def main(path: str) -> None:
    """Answers requests until the standard input ends."""
    spec: Any = importlib.util.spec_from_file_location("reader", path)
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    for line in sys.stdin:
        read_end, write_end = os.pipe()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        child = os.fork()
        if child == 0:
            _read(reader, Path(line.rstrip("\n")), write_end)
        os.close(write_end)
        with open(read_end, "rb") as answer:
            content = answer.read()
        _, status, usage = os.wait4(child, 0)
        head = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": usage.ru_utime + usage.ru_stime,
            "memory": max(0, usage.ru_maxrss - before) * 1024,
            "size": len(content),
        }
        sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + content)
        sys.stdout.buffer.flush()


def _read(reader: types.ModuleType, path: Path, write_end: int) -> None:
    """Runs the reader's program in this process, which then ends."""
    code = 1
    try:
        os.dup2(os.open(path, os.O_RDONLY), 0)
        os.dup2(write_end, 1)
        os.closerange(3, 64)
        with open(0) as sys.stdin, open(1, "w") as sys.stdout:
            reader.main()
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
