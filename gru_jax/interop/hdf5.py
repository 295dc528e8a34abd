"""HDF5 files, parsed in a subprocess."""

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gru_jax.interop.files import import_optional

READER = Path(__file__).with_name("hdf5_reader.py")
SECONDS = 60
"""Timeout of the subprocess, which may have to wait for a busy machine; its own limit is 5 s of
processor time. One second is added to either for 10 MB."""

SPARE_BYTES = 64 << 20
LIBRARY_BYTES = 128 << 20
"""Memory of Python, NumPy and h5py."""


def parse_hdf5(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """The floating point arrays in an HDF5 file's content, by path; they share its memory.

    Corrupted files can crash or hang the HDF5 library. It therefore runs in a subprocess that
    cannot open files and has limits on time and memory. It answers where the arrays are.

    Raises:
        ValueError: the content is not a valid HDF5 file, has links, or has arrays that are
            compressed, chunked or stored in another file.
        ImportError: h5py is not installed.
    """
    # -P: the program's folder has modules with the names of the frameworks.
    command = [sys.executable, "-P", str(READER)]
    seconds = SECONDS + len(data) / 1e7
    try:
        done = _run(command, data, seconds)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not read it in {seconds:.0f} s") from error
    if done.returncode:
        import_optional("h5py")
        raise ValueError(f"the HDF5 library failed on it, exit code {done.returncode}")
    end = done.stdout.index(b"\n")
    answer, content = json.loads(done.stdout[:end]), memoryview(done.stdout)[end + 1 :]
    if "error" in answer:
        raise ValueError(f"no HDF5 file of plain arrays: {answer['error']}")
    arrays, offset = {}, 0
    for name, dtype_name, shape, place in answer["arrays"]:
        dtype = np.dtype(jnp.bfloat16 if dtype_name == "bfloat16" else dtype_name)
        size = math.prod(shape)
        if place is None:
            array = np.frombuffer(content, dtype, size, offset)
            offset += array.nbytes
        else:
            array = np.frombuffer(data, dtype, size, place)
        arrays[name] = array.reshape(shape)
    return arrays


def _run(
    command: list[str], data: bytes | memoryview, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """Runs the reader; on systems that cannot limit a process' memory it is watched."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        if sys.platform != "linux":
            watch(process, LIBRARY_BYTES + SPARE_BYTES + 2 * len(data), 5 + len(data) / 1e7)
        try:
            # The type stubs lack the memoryview, which is not copied.
            out, _ = process.communicate(data, timeout=seconds)  # pyright: ignore[reportArgumentType]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out)


def watch(process: subprocess.Popen[bytes], max_bytes: int, max_seconds: float) -> threading.Thread:
    """Kills a process that takes more memory or processor time, from a thread.

    Raises:
        ImportError: psutil is not installed.
    """
    psutil = import_optional("psutil")

    def observe() -> None:
        # The process may end at any time.
        with contextlib.suppress(psutil.Error):
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                times = watched.cpu_times()
                if watched.memory_info().rss > max_bytes or times.user + times.system > max_seconds:
                    process.kill()
                time.sleep(0.05)

    thread = threading.Thread(target=observe, daemon=True)
    thread.start()
    return thread
