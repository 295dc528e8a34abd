"""A program that reads one HDF5 file from its standard input, with limits on time and memory.

`gru_jax.interop.hdf5` starts it; it must not import this package. The HDF5 library may crash or
loop forever on a corrupted file, which then affects only this process.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

MAX_DEPTH = 32
MAX_MEMBERS = 100_000
MAX_NAME_BYTES = 8 << 20


def main() -> None:
    """Writes a line of JSON and then the bytes of each array.

    The line is `{"arrays": [[name, dtype, shape], ...]}` or `{"error": message}`.
    """
    data = sys.stdin.buffer.read()
    _limit(len(data))
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = list(Hdf5Traversal(len(data)).datasets(file, ""))
    except Exception as error:
        # h5py raises exceptions of many types on corrupted files.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    out = sys.stdout.buffer
    head = [(name, dtype, array.shape) for name, dtype, array in arrays]
    out.write(json.dumps({"arrays": head}).encode() + b"\n")
    for *_, array in arrays:
        out.write(array.tobytes())


class Hdf5Traversal:
    """Traverses a file's groups; reads at most as many bytes as the file has."""

    def __init__(self, size: int):
        self.bytes_left = size
        self.members_left = MAX_MEMBERS
        self.name_bytes_left = MAX_NAME_BYTES

    def datasets(self, group: Any, path: str) -> Iterator[tuple[str, str, np.ndarray]]:
        """The floating point arrays, each with its name and dtype."""
        if path.count("/") > MAX_DEPTH:
            raise ValueError(f"groups are nested deeper than {MAX_DEPTH}")
        for name in group:
            self.members_left -= 1
            if self.members_left < 0:
                raise ValueError(f"it has more than {MAX_MEMBERS} groups and datasets")
            self.name_bytes_left -= len(path) + len(name)
            if self.name_bytes_left < 0:
                raise ValueError(f"its names have more than the limit of {MAX_NAME_BYTES} bytes")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}{name} is a link")
            member = group[name]
            if isinstance(member, h5py.Group):
                yield from self.datasets(member, f"{path}{name}/")
            elif isinstance(member, h5py.Dataset):
                dtype = _dtype(member)
                if dtype:
                    yield path + name, dtype, self.read(member, path + name)

    def read(self, dataset: Any, name: str) -> np.ndarray:
        """Reads an array stored contiguously in this file: not external, compressed or chunked."""
        creation = dataset.id.get_create_plist()
        plain = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        if creation.get_layout() not in plain or creation.get_external_count():
            raise ValueError(f"{name} is not stored contiguously in the file")
        self.bytes_left -= dataset.size * dataset.dtype.itemsize
        if self.bytes_left < 0:
            raise ValueError(f"{name} claims more bytes than the file has")
        return dataset[()]


def _dtype(dataset: Any) -> str:
    """The name of a floating point dtype; an empty string for others."""
    if dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2:
        return "bfloat16" if dataset.attrs.get("dtype") == "bfloat16" else ""
    return dataset.dtype.str if dataset.dtype.kind == "f" else ""


def _limit(size: int) -> None:
    """Limits open files, memory and CPU seconds, on systems that support it.

    The process that started this one watches its memory and CPU seconds on the other systems.
    """
    if os.name != "posix":
        return
    import resource

    limits = {
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: 5 + size // 10_000_000,
    }
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + size + (64 << 20)
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
