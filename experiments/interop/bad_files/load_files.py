"""A program that loads files one after the other and measures what each takes.

It reads a request in JSON from its standard input, with the `module` whose `load` is called, the
`paths` of the files, and the `timeout` of each in seconds. It prints a line of JSON for each file.
"""

import ctypes
import faulthandler
import importlib
import json
import resource
import sys
import time
from pathlib import Path

from experiments.interop.bad_files.hdf5_forks import Hdf5Forks
from gru_jax.interop import hdf5
from gru_jax.interop.files import FileError

MAX_ADDRESSES = 2 << 30
"""Bytes of address space that a reader may allocate after its first file."""


def main() -> None:
    """Reads the request and answers it."""
    request = json.load(sys.stdin)
    load = importlib.import_module(request["module"]).load
    # Starting Python and h5py for each file would take far longer than reading it.
    with Hdf5Forks() as forks:
        hdf5._run = forks.run
        for index, path in enumerate(request["paths"]):
            # Ends the process from another thread, even if the reader hangs in C code.
            faulthandler.dump_traceback_later(request["timeout"], exit=True)
            forks.seconds, forks.memory = 0.0, 0
            memory, begin = _reset_memory(), time.process_time()
            try:
                load(Path(path))
                result = "loaded"
            except FileError as error:
                result = "rejected" if path in str(error) else f"does not name the file: {error}"
            except BaseException as error:
                result = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - begin + forks.seconds
            memory = _memory("VmHWM") - memory + forks.memory
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"result": result, "seconds": seconds, "memory": memory}), flush=True)
            if index == 0 and sys.platform == "linux":
                limit = _memory("VmSize") + MAX_ADDRESSES
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reset_memory() -> int:
    """Returns free memory to the system and forgets the largest use so far; the present use."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(kind: str) -> int:
    """Bytes of memory in a line of the process' status; 0 on systems without it."""
    if sys.platform != "linux":
        return 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * 1024
    raise LookupError(kind)


if __name__ == "__main__":
    main()
