"""HDF5 files: their arrays, read in a process of its own."""

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
"""After which the library is taken to hang; a second more for each megabyte."""


def parse_hdf5(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of floating point numbers in an HDF5 file's content, by path.

    Damaged files crash or hang the HDF5 library, so that another process calls it, which can open
    no file and has limits of time and memory.

    Raises:
        ValueError: the content is no valid HDF5 file, has links, or arrays that do not lie in it
            as they are.
        ImportError: h5py is not installed.
    """
    # -P: the folder of that program has modules named as the frameworks are.
    command = [sys.executable, "-P", str(READER)]
    seconds = SECONDS + len(data) / 1e6
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not read it in {seconds:.0f} s") from error
    if done.returncode:
        import_optional("h5py")
        raise ValueError(f"the HDF5 library failed on it, exit code {done.returncode}")
    head, _, numbers = done.stdout.partition(b"\n")
    answer = json.loads(head)
    if "error" in answer:
        raise ValueError(f"no HDF5 file of plain arrays: {answer['error']}")
    arrays, at = {}, 0
    for name, dtype_name, shape in answer["arrays"]:
        dtype = np.dtype(jnp.bfloat16 if dtype_name == "bfloat16" else dtype_name)
        size = math.prod(shape)
        arrays[name] = np.frombuffer(numbers, dtype, size, at).reshape(shape)
        at += size * dtype.itemsize
    return arrays
