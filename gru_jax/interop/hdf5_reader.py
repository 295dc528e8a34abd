"""A program that reads one HDF5 file from its standard input, with limits on time and memory.

`gru_jax.interop.hdf5` starts it; it must not import this package. The HDF5 library may crash or
loop forever on a corrupted file, which then affects only this process.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import h5py
import numpy as np

MAX_DEPTH = 32
MAX_MEMBERS = 100_000
MAX_NAME_BYTES = 8 << 20

Found: TypeAlias = tuple[str, str, tuple[int, ...], int | None, np.ndarray | None]
"""An array's name, dtype and shape, and its place in the file or else its elements."""


def main() -> None:
    """Writes a line of JSON, and then the bytes of the arrays that it gives no place for.

    The line is `{"arrays": [[name, dtype, shape, place], ...]}` or `{"error": message}`. An array's
    place is the position of its bytes in the input, or null.
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
    head = [each[:4] for each in arrays]
    out.write(json.dumps({"arrays": head}).encode() + b"\n")
    for *_, array in arrays:
        if array is not None:
            out.write(array.tobytes())


class Hdf5Traversal:
    """Traverses a file's groups; finds at most as many bytes as the file has."""

    def __init__(self, size: int):
        self.bytes_left = size
        self.members_left = MAX_MEMBERS
        self.name_bytes_left = MAX_NAME_BYTES

    def datasets(self, group: Any, path: str) -> Iterator[Found]:
        """The floating point arrays."""
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
                    place, array = self.find(member, path + name)
                    yield path + name, dtype, member.shape, place, array

    def find(self, dataset: Any, name: str) -> tuple[int | None, np.ndarray | None]:
        """An array's place in the file, or its elements if they are not there as NumPy has them.

        It must be stored contiguously in this file: not external, compressed or chunked.
        """
        creation, dtype = dataset.id.get_create_plist(), dataset.dtype
        layout = creation.get_layout()
        plain = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        if layout not in plain or creation.get_external_count():
            raise ValueError(f"{name} is not stored contiguously in the file")
        size = dataset.size * dtype.itemsize
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ValueError(f"{name} claims more bytes than the file has")
        if (
            layout == h5py.h5d.CONTIGUOUS
            and 0 < size == dataset.id.get_storage_size()
            and h5py.h5t.py_create(dtype).equal(dataset.id.get_type())
        ):
            return dataset.id.get_offset(), None
        return None, dataset[()]


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
