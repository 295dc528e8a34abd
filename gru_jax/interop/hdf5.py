"""HDF5 files, parsed in a subprocess."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gru_jax.interop.files import import_optional

READER = Path(__file__).with_name("hdf5_reader.py")
SECONDS = 60
"""Timeout of the subprocess; one second is added for each megabyte."""


def parse_hdf5(data: bytes) -> dict[str, np.ndarray]:
    """The floating point arrays in an HDF5 file's content, by path.

    Corrupted files can crash or hang the HDF5 library. It therefore runs in a subprocess that
    cannot open files and has limits on time and memory.

    Raises:
        ValueError: the content is not a valid HDF5 file, has links, or has arrays that are
            compressed, chunked or stored in another file.
        ImportError: h5py is not installed.
    """
    # -P: the program's folder has modules with the names of the frameworks.
    command = [sys.executable, "-P", str(READER)]
    seconds = SECONDS + len(data) / 1e6
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not read it in {seconds:.0f} s") from error
    if done.returncode:
        import_optional("h5py")
        raise ValueError(f"the HDF5 library failed on it, exit code {done.returncode}")
    head, _, content = done.stdout.partition(b"\n")
    answer = json.loads(head)
    if "error" in answer:
        raise ValueError(f"no HDF5 file of plain arrays: {answer['error']}")
    arrays, offset = {}, 0
    for name, dtype_name, shape in answer["arrays"]:
        dtype = np.dtype(jnp.bfloat16 if dtype_name == "bfloat16" else dtype_name)
        size = math.prod(shape)
        arrays[name] = np.frombuffer(content, dtype, size, offset).reshape(shape)
        offset += size * dtype.itemsize
    return arrays
