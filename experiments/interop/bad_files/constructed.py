"""Random files that are valid containers with adversarial content, a function of the seed.

The content is deep, wide, aliased, recursive, huge, negative, not a number or inconsistent. A
reader may load such a file, if the change did not matter, or reject it.
"""

import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from experiments.interop.bad_files import pt
from experiments.interop.bad_files.archives import rezip, unzip

NUMBERS = (0, 1, -1, 2, 3, 31, 33, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1)
STRANGE = ("", ".", "..", "../x", "/dev/zero", "a/b", "a\0b", "\ud7ff", "gru" * 1000, "{}", "0")


def hostile_value(rng: random.Random) -> Any:
    """A value of JSON of any type and size."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice((None, True, False, {}, [], [[]], {"": None}))
    if kind == 1:
        return rng.choice((float("nan"), float("inf"), -0.0, 1e308, 0.5))
    if kind == 2:
        return [hostile_value(rng) for _ in range(rng.randrange(4))]
    if kind == 3:
        return {rng.choice(STRANGE): hostile_value(rng) for _ in range(rng.randrange(4))}
    if kind == 4:
        return [rng.choice(NUMBERS)] * rng.choice((1, 33, 10_000))
    if kind == 5:
        return rng.choice(STRANGE)
    if kind == 6:
        return 10 ** rng.choice((20, 100, 4000))
    return rng.choice(NUMBERS)


def hostile_json(value: Any, rng: random.Random) -> bytes:
    """JSON of a value with some places replaced, removed or repeated."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _with_change(value, rng)
    text = json.dumps(value)
    if rng.random() < 0.1:
        # Deeper than what json.dumps writes, and names that are there twice.
        deep = rng.choice(("[" * 50_000 + "]" * 50_000, '{"a":' * 900 + "1" + "}" * 900))
        return f'{{"a": {deep}, "a": {text}}}'.encode()
    return text.encode()


def _with_change(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return hostile_value(rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    if rng.random() < 0.1:
        del value[key]
    elif rng.random() < 0.1:
        value[key] = value[rng.choice(keys)]
    else:
        value[key] = _with_change(value[key], rng)
    return value


def safetensors(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Files with adversarial headers; of the metadata, the model's description, too."""
    rng = random.Random(seed)
    (size,) = struct.unpack_from("<Q", good)
    header = json.loads(good[8 : 8 + size])
    for _ in range(count):
        changed = dict(header)
        metadata = header.get("__metadata__", {})
        if "model" in metadata and rng.random() < 0.5:
            model = hostile_json(json.loads(metadata["model"]), rng).decode()
            changed["__metadata__"] = metadata | {"model": model}
            text = json.dumps(changed).encode()
        else:
            text = hostile_json(changed, rng)
        yield struct.pack("<Q", len(text)) + text + good[8 + size :]


def torch(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Archives of programs that are made of a state dict's opcodes, in any order."""
    rng = random.Random(seed)
    storages = {"0": bytes(4 * 36), "1": bytes(1 << 16)}
    for _ in range(count):
        choice = rng.random()
        if choice < 0.4:
            yield pt.archive(_program(rng), storages)
        elif choice < 0.8:
            yield pt.archive(pt.program(_state_dict(rng)), storages)
        else:
            yield hostile_archive(unzip(good), rng)


def _state_dict(rng: random.Random) -> dict[str, bytes]:
    """Tensors whose storages, shapes or strides may be anything."""
    items = {}
    for name, shape in {
        "weight_ih_l0": (6, 3),
        "weight_hh_l0": (6, 2),
        "bias_ih_l0": (6,),
        "bias_hh_l0": (6,),
    }.items():
        strides = (shape[1], 1) if len(shape) == 2 else (1,)
        key, size = "0", 36
        if rng.random() < 0.4:
            shape = tuple(rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 2, 3, 40))))
        if rng.random() < 0.3:
            strides = tuple(rng.choice(NUMBERS) for _ in range(len(shape)))
        if rng.random() < 0.2:
            key, size = rng.choice(("1", "0", "2", "../0")), rng.choice(NUMBERS)
        items[name] = pt.tensor(key, size, shape, strides)
    if rng.random() < 0.3:
        items[rng.choice(STRANGE).replace("\ud7ff", "x")] = _opcodes(rng, 30)
    return items


def _program(rng: random.Random) -> bytes:
    """Opcodes of a state dict in random order, with a memo that they read and write."""
    return b"\x80\x02" + _opcodes(rng, rng.choice((3, 10, 30, 100, 10_000))) + b"."


def _opcodes(rng: random.Random, count: int) -> bytes:
    values = [b"N", b"\x88", b"\x89", b")", b"}", b"]", b"K\x01", pt.integer(2**70), pt.string("a")]
    values += [pt.tensor("0", 36, (6, 6), (6, 1)), b"G\x7f\xf8" + bytes(6)]
    names = [b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"cbuiltins\neval\n"]
    changes = [b"(", b"t", b"\x85", b"\x86", b"\x87", b"u", b"s", b"e", b"a", b"R", b"b", b"Q"]
    code = []
    for at in range(count):
        # First what fills the stack, then more of what takes from it.
        kind = rng.random()
        if kind < 0.5 or at < 3:
            code.append(rng.choice(values))
        elif kind < 0.55:
            code.append(rng.choice(names))
        elif kind < 0.7:
            code.append(rng.choice((b"q", b"h")) + bytes([rng.randrange(4)]))
        else:
            code.append(rng.choice(changes))
    return b"".join(code)


def hostile_archive(entries: dict[str, bytes], rng: random.Random) -> bytes:
    """A ZIP archive of which one field of a header, of the directory or of its end is changed."""
    names = list(entries)
    if rng.random() < 0.3:
        name = rng.choice(names)
        entries = dict(entries)
        content = entries.pop(name)
        entries[rng.choice((name, *STRANGE[1:])).replace("\0", "_")] = rng.choice(
            (content, b"", content * 2, content + b"PK\5\6" + bytes(18), b"PK\3\4" + content)
        )
        return rezip(entries)
    data = bytearray(rezip(entries))
    # The sizes of a local header, an entry of the directory, and the end record.
    marks, sizes = (b"PK\3\4", b"PK\1\2", b"PK\5\6"), (30, 46, 22)
    which = rng.randrange(3)
    places, at = [], data.find(marks[which])
    while at >= 0:
        places.append(at)
        at = data.find(marks[which], at + 4)
    at = rng.choice(places) + rng.randrange(4, sizes[which] - 3)
    number = rng.choice(NUMBERS) & 0xFFFFFFFF
    data[at : at + rng.choice((2, 4))] = struct.pack("<I", number)[: rng.choice((2, 4))]
    return bytes(data)


def hdf5(count: int, seed: int) -> Iterator[bytes]:
    """Files with a layer "gru" whose groups, datasets, dtypes and attributes may be anything."""
    import h5py

    rng = random.Random(seed)
    for _ in range(count):
        out = io.BytesIO()
        with h5py.File(out, "w", userblock_size=rng.choice((0, 0, 0, 512))) as file:
            group = file.create_group("layers/gru/cell/vars")
            for name, shape in (("0", (3, 6)), ("1", (2, 6)), ("2", (2, 6))):
                if rng.random() < 0.3:
                    _hostile_dataset(group, name, shape, rng)
                else:
                    group[name] = [[0.5] * 6] * shape[0]
            for _ in range(rng.choice((0, 1, 3))):
                _hostile_member(file, rng)
        yield out.getvalue()


def _hostile_dataset(group: Any, name: str, shape: tuple[int, ...], rng: random.Random) -> None:
    import h5py
    import numpy as np

    dtypes = ["<f4", ">f4", "<f2", "<f8", "g", "i4", "?", "S5", "V2", "V3", "c8"]
    dtypes += [[("a", "f4"), ("b", "f4")], ("f4", (2, 3)), h5py.string_dtype(), h5py.ref_dtype]
    dtypes += [h5py.vlen_dtype("f4"), h5py.enum_dtype({"a": 1})]
    shapes = [shape, (), (0, 6), (1 << 40, 6), (3, 6, 1), (1,) * 32, (6,), None]
    dtype, shape_or_none = rng.choice(dtypes), rng.choice(shapes)
    options: dict[str, Any] = {}
    if shape_or_none and 0 not in shape_or_none and rng.random() < 0.2:
        options = rng.choice(({"chunks": True}, {"compression": "gzip"}, {"fillvalue": None}))
    try:
        if shape_or_none is None:
            group.create_dataset(name, data=h5py.Empty("f4"))
        else:
            group.create_dataset(name, shape_or_none, np.dtype(dtype), **options)
    except (TypeError, ValueError, OverflowError):
        # Not every option goes with every dtype and shape.
        group.create_dataset(name, (1,), "f4")


def _hostile_member(file: Any, rng: random.Random) -> None:
    import h5py

    group = file["layers/gru/cell/vars"]
    number = rng.randrange(1 << 30)
    kind = rng.randrange(8)
    if kind == 0:
        group[f"again{number}"] = rng.choice((file["layers"], file["layers/gru"], file))
    elif kind == 1:
        file[f"soft{number}"] = h5py.SoftLink(rng.choice(("/", "/absent", f"/soft{number}")))
    elif kind == 2:
        file[f"outside{number}"] = h5py.ExternalLink("/etc/hostname", "/")
    elif kind == 3:
        file.create_group("/".join("d" * rng.choice((10, 30, 40, 2000))))
    elif kind == 4:
        for at in range(rng.choice((100, 3000))):
            file.create_group(f"wide{number}/{at}")
    elif kind == 5:
        group.attrs[rng.choice(("dtype", "name", "x"))] = rng.choice(
            ("bfloat16", 3, [1.0] * 1000, b"\xff", h5py.Empty("f4"))
        )
    elif kind == 6:
        file[f"type{number}"] = h5py.h5t.IEEE_F32LE.dtype
    else:
        file.require_group("layers/" + rng.choice(("gru_1", "bidirectional", "rnn", "x" * 5000)))


def keras(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Archives with adversarial descriptions, adversarial weights, or an adversarial directory."""
    rng = random.Random(seed)
    entries = unzip(good)
    config = json.loads(entries["config.json"])
    weights = hdf5(count, seed)
    for _ in range(count):
        choice = rng.random()
        if choice < 0.5:
            yield rezip(entries | {"config.json": hostile_json(config, rng)})
        elif choice < 0.8:
            yield rezip(entries | {"model.weights.h5": next(weights)})
        else:
            yield hostile_archive(entries, rng)


def program(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Exported programs with a digest to match: of other bytes, or with other metadata."""
    import hashlib

    from experiments.interop.bad_files.fuzz import corrupt

    rng = random.Random(seed)
    entries = unzip(good)
    metadata = json.loads(entries["note.json"])
    content = entries["program"]
    for changed in corrupt(content, count, seed):
        choice = rng.random()
        if choice < 0.7:
            digest = {"sha256": hashlib.sha256(changed).hexdigest()}
            note = json.dumps(metadata | digest).encode()
            yield rezip({"note.json": note, "program": changed})
        elif choice < 0.9:
            yield rezip({"note.json": hostile_json(metadata, rng), "program": content})
        else:
            yield hostile_archive(entries, rng)
