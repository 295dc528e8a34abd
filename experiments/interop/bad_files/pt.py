"""Files of tensors as `torch.save` writes them, valid and adversarial, without PyTorch."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.interop.bad_files.archives import rezip

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def string(text: str) -> bytes:
    """The opcode of a string."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def integer(value: int) -> bytes:
    """The opcode of an integer."""
    return pickle.dumps(value, 2)[2:-1]


def sequence(*items: bytes) -> bytes:
    """The opcodes of a tuple."""
    return b"(" + b"".join(items) + b"t"


def tensor(
    key: str, size: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str = "float32"
) -> bytes:
    """The opcodes of a tensor that is a view of a storage of ``size`` elements."""
    kind = f"ctorch\n{STORAGES[dtype]}\n".encode()
    storage = sequence(string("storage"), kind, string(key), string("cpu"), integer(size)) + b"Q"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = sequence(
        storage,
        integer(0),
        sequence(*map(integer, shape)),
        sequence(*map(integer, strides)),
        b"\x89",
        hooks,
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def program(items: Mapping[str, bytes]) -> bytes:
    """The pickle of a dictionary whose values are made by opcodes."""
    return b"\x80\x02}(" + b"".join(string(name) + code for name, code in items.items()) + b"u."


def archive(code: bytes, storages: Mapping[str, bytes]) -> bytes:
    """A file of a pickle and storages."""
    data = {f"archive/data/{key}": content for key, content in storages.items()}
    return rezip({"archive/data.pkl": code, "archive/version": b"3\n", **data})


def save(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file of arrays, as `torch.save` writes a state dict."""
    code, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array)
        strides = tuple(step // array.itemsize for step in array.strides)
        code[name] = tensor(str(key), array.size, array.shape, strides, array.dtype.name)
        storages[str(key)] = array.tobytes()
    return archive(program(code), storages)


def two_directories(num_storages: int, size: int) -> bytes:
    """An archive of which some readers find one directory and others another.

    The first has storages of ``size`` bytes each, compressed zeros; the second, which `zipfile`
    finds, an empty dictionary.
    """
    zeros = bytes(size)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(zeros) + packer.flush()
    count = size // 4
    code = program(
        {f"w{key}": tensor(str(key), count, (count,), (1,)) for key in range(num_storages)}
    )
    entries = [(b"a/data.pkl", code, code, zipfile.ZIP_STORED)]
    entries += [
        (f"a/data/{key}".encode(), zeros, packed, zipfile.ZIP_DEFLATED)
        for key in range(num_storages)
    ]
    other = [
        (name, content, content, zipfile.ZIP_STORED)
        for name, *_ in entries
        for content in (b"\x80\x02}." if name.endswith(b"pkl") else b"x",)
    ]
    first, directory, start = _zip_parts(entries, 0)
    begin = start + len(directory)
    second, other_directory, end = _zip_parts(other, begin)
    # zipfile takes the directory that ends where the end record begins, and corrects all offsets.
    other_directory = _zip_parts(other, begin - (end - start))[1]
    size = len(directory)
    assert len(other_directory) == size
    record = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(entries), len(entries), size, start, 0)
    return first + directory + second + other_directory + record


def _zip_parts(
    entries: list[tuple[bytes, bytes, bytes, int]], offset: int
) -> tuple[bytes, bytes, int]:
    """The entries, their directory, and where the entries end."""
    content = directory = b""
    for name, data, packed, method in entries:
        common = struct.pack(
            "<HHHHHIIIHH",
            20,
            0,
            method,
            0,
            0,
            zlib.crc32(data),
            len(packed),
            len(data),
            len(name),
            0,
        )
        directory += b"PK\1\2" + struct.pack("<H", 20) + common
        directory += struct.pack("<HHHII", 0, 0, 0, 0, offset + len(content)) + name
        content += b"PK\3\4" + common + name + packed
    return content, directory, offset + len(content)


def tuples_within_tuples(depth: int) -> bytes:
    """A key whose hash takes 2^depth steps: a tuple that holds another twice."""
    code = b"\x80\x02)q\x00"
    for at in range(depth):
        code += sequence(bytes([104, at, 104, at])) + bytes([113, at + 1])
    return code + b"}h" + bytes([depth]) + b"K\x01s."


def adversarial(size: int = 6) -> dict[str, bytes]:
    """Valid archives whose content is adversarial, by what is wrong with them."""
    huge = 1 << 62
    ones = np.ones(size * size, np.float32).tobytes()
    two = {"0": ones}

    def of(**items: bytes) -> bytes:
        return archive(program(items), two)

    def view(*shape_and_strides: Any) -> bytes:
        return of(weight_hh_l0=tensor("0", size * size, *shape_and_strides))

    def repeated(code: bytes, times: int) -> bytes:
        return archive(b"\x80\x02" + code * times + b".", two)

    shared = tensor("0", 1 << 22, (1 << 11, 1 << 11), (1 << 11, 1))
    aliases = {f"weight_ih_l{at}": shared for at in range(64)}
    nested = {"a": b"]q\x00"} | {
        f"a{at}": b"](" + bytes([104, at, 104, at]) + b"e" + bytes([113, at + 1])
        for at in range(60)
    }
    nested |= {"weight_ih_l0": b"h\x3c", "weight_hh_l0": b"h\x3c"}
    colliding = b"".join(integer(at * ((1 << 61) - 1)) + b"N" for at in range(100_000))
    return {
        "two directories": two_directories(16, 16 << 20),
        "a key of tuples within tuples": archive(tuples_within_tuples(60), two),
        "lists within lists": archive(program(nested), two),
        "a number for a storage": of(weight_hh_l0=tensor("0", -1, (6, 6), (6, 1))),
        "a storage that is not there": of(weight_hh_l0=tensor("1", size, (size,), (1,))),
        "a name outside": of(weight_hh_l0=tensor("../../etc", size, (size,), (1,))),
        "strides beyond the storage": view((6, 6), (7, 1)),
        "negative strides": view((6, 6), (-6, 1)),
        "a negative size": view((-6, 6), (6, 1)),
        "a shape larger than its storage": view((huge, huge), (0, 0)),
        "a thousand axes": view((1,) * 1000, (1,) * 1000),
        "axes and strides that differ": view((6, 6), (1,)),
        "NaN for a size": of(
            w=tensor("0", 36, (3,), (1,)).replace(b"K\x03", b"G\x7f\xf8" + bytes(6))
        ),
        "many tensors of one storage": archive(program(aliases), {"0": bytes(1 << 24)}),
        "a tensor of a tensor": of(
            w=b"ctorch._utils\n_rebuild_tensor_v2\n"
            + sequence(
                tensor("0", 36, (6,), (6,)), integer(0), sequence(integer(36)), sequence(integer(1))
            )
            + b"R"
        ),
        "the same name twice": archive(
            b"\x80\x02}(" + 2 * (string("w") + tensor("0", 36, (36,), (1,))) + b"u.", two
        ),
        "keys with equal hashes": archive(b"\x80\x02}(" + colliding + b"u.", two),
        "a million empty dictionaries": repeated(b"}", 1_000_000),
        "a million marks": repeated(b"(", 1_000_000),
        "no end": archive(b"\x80\x02}", two),
        "a stack without elements": archive(b"\x80\x02u.", two),
        "a memo without elements": archive(b"\x80\x02h\x05.", two),
        "a list that holds itself": archive(b"\x80\x02]q\x00h\x00a.", two),
        "a call of a class": archive(b"\x80\x02ctorch\nFloatStorage\n)R.", two),
        "the program of another library": archive(b"\x80\x02cnumpy\nload\n(X\x01\0\0\0xtR.", two),
        "a pickle larger than its limit": archive(b"\x80\x02" + b"N0" * (1 << 22) + b".", two),
    }
