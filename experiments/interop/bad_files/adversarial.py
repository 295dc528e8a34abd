"""Files that try to crash a reader, exhaust its memory, run a program or read other files.

Each function returns files by what is wrong with them; a reader must reject every one.
"""

import hashlib
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

from experiments.interop.bad_files.archives import rezip, unzip

HUGE = 1 << 62


def safetensors(good: bytes) -> dict[str, bytes]:
    """Made from a valid file, of gru_jax or of PyTorch."""
    (size,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    first = next(name for name in header if name != "__metadata__")

    def made(changes: dict[str, Any], more: bytes = b"") -> bytes:
        entry = header[first] | changes
        text = json.dumps(header | {first: entry}).encode()
        return struct.pack("<Q", len(text)) + text + data + more

    end = header[first]["data_offsets"][1]
    text = json.dumps(header).encode()
    return {
        "empty": b"",
        "no header": struct.pack("<Q", 0),
        "a header larger than the file": struct.pack("<Q", HUGE) + text,
        "a header of almost all memory": struct.pack("<Q", (1 << 64) - 1) + text,
        "a header of 99 MB that is not there": struct.pack("<Q", 99_000_000) + text,
        "a shape that overflows": made({"shape": [HUGE, HUGE, 4]}),
        "a negative size": made({"shape": [-1, 3]}),
        "elements beyond the end": made({"data_offsets": [0, HUGE]}),
        "offsets in reverse": made({"data_offsets": [end, 0]}),
        "a shape larger than its data": made({"shape": [1 << 20, 1 << 20]}),
        "a dtype that is unknown": made({"dtype": "F4096"}),
        "bytes that belong to nothing": made({}, b"more"),
        "brackets without end": struct.pack("<Q", 1 << 20) + b"[" * (1 << 20),
        "a header that is a list": struct.pack("<Q", 2) + b"[]",
        "a pickle": pickle.dumps({"weight_ih_l0": [1.0]}),
    }


def torch(good: bytes, folder: Path) -> dict[str, bytes]:
    """Made from a valid .pt file; a program that runs would write `folder / "executed"`."""
    entries = unzip(good)
    name = next(name for name in entries if name.endswith("data.pkl"))
    program = Program(str(folder / "executed"))
    array = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", HUGE) + b"\x85R."
    numel = entries[name].replace(b"K\x02", b"\x8a\x08" + struct.pack("<q", HUGE))
    outside = {f"archive/../../../{each}": entry for each, entry in entries.items()}
    return {
        "empty": b"",
        "a pickle that runs a program": pickle.dumps(program),
        "a program in the archive": rezip(entries | {name: pickle.dumps(program, 2)}),
        "a program by its name on the stack": rezip(entries | {name: pickle.dumps(program, 4)}),
        "an array as large as all memory": rezip(entries | {name: array}),
        "a tensor larger than memory": rezip(entries | {name: numel}),
        "compressed zeros": rezip(entries | {"archive/data/0": bytes(1 << 26)}, ZIP_DEFLATED),
        "names that lead outside": rezip(outside),
        "no pickle": rezip({each: entry for each, entry in entries.items() if each != name}),
        "nothing but a number": rezip(entries | {name: pickle.dumps(3, 2)}),
        "a list without end": rezip(entries | {name: b"\x80\x02" + b"(" * (1 << 18) + b"."}),
    }


ZIP_DEFLATED = zipfile.ZIP_DEFLATED


class Program:
    """Unpickling this writes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def hdf5(good: bytes, folder: Path) -> dict[str, bytes]:
    """Files with a layer "gru" whose weights are elsewhere, or not as Keras writes them."""
    import h5py
    import numpy as np

    outside = folder / "outside.h5"
    outside.write_bytes(good)
    cell = "layers/gru/cell/vars"
    (folder / "elements.bin").write_bytes(bytes(1 << 12))
    ones = {"0": np.ones((3, 6), "f"), "1": np.ones((2, 6), "f"), "2": np.ones((2, 6), "f")}

    def made(write: Any, without: tuple[str, ...] = ()) -> bytes:
        out = io.BytesIO()
        with h5py.File(out, "w") as file:
            group = file.create_group(cell)
            for name, array in ones.items():
                if name not in without:
                    group[name] = array
            write(file, group)
        return out.getvalue()

    def external_link(file: Any, group: Any) -> None:
        group["0"] = h5py.ExternalLink(str(outside), f"{cell}/0")

    def soft_link(file: Any, group: Any) -> None:
        file["elsewhere"] = ones["0"]
        group["0"] = h5py.SoftLink("/elsewhere")

    def external_data(file: Any, group: Any) -> None:
        place = [(str(folder / "elements.bin"), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset("0", (3, 6), "f", external=place)

    def virtual(file: Any, group: Any) -> None:
        layout = h5py.VirtualLayout((3, 6), "f")
        layout[:] = h5py.VirtualSource(str(outside), f"{cell}/0", (3, 6))
        group.create_virtual_dataset("0", layout)

    def huge(file: Any, group: Any) -> None:
        group.create_dataset("0", (1 << 20, 1 << 20), "f")

    def compressed(file: Any, group: Any) -> None:
        group.create_dataset("0", data=np.zeros((1 << 12, 1 << 12), "f"), compression="gzip")

    def circle(file: Any, group: Any) -> None:
        group["again"] = file["layers"]

    def deep(file: Any, group: Any) -> None:
        file.create_group("/".join("a" * 100))

    def double(file: Any, group: Any) -> None:
        file["zeros"] = np.zeros(1 << 16, "f")
        for index in range(100):
            group[f"copy{index}"] = file["zeros"]

    def integers(file: Any, group: Any) -> None:
        group["0"] = np.ones((3, 6), np.int32)

    return {
        "empty": b"",
        "a link into another file": made(external_link, ("0",)),
        "a link within the file": made(soft_link, ("0",)),
        "elements in another file": made(external_data, ("0",)),
        "an array assembled from other files": made(virtual, ("0",)),
        "an array larger than memory": made(huge, ("0",)),
        "compressed zeros": made(compressed, ("0",)),
        "groups in a circle": made(circle),
        "deeply nested groups": made(deep),
        "one array a hundred times": made(double),
        "integers": made(integers, ("0",)),
        "no layers": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    }


def keras(good: bytes, weights: bytes) -> dict[str, bytes]:
    """Made from a valid .keras file, and from an adversarial .h5 file to put into it."""
    entries = unzip(good)
    config = json.loads(entries["config.json"])

    within: dict[str, Any] = {"class_name": "GRU", "config": {"name": "gru"}}
    for _ in range(150):
        both = {"name": "gru", "layer": within, "backward_layer": None}
        within = {"class_name": "Bidirectional", "config": both}

    def described(changed: Any) -> bytes:
        return rezip(entries | {"config.json": json.dumps(changed).encode()})

    return {
        "adversarial weights": rezip(entries | {"model.weights.h5": weights}),
        "compressed": rezip(entries, ZIP_DEFLATED),
        "a compressed bomb": rezip(entries | {"bomb": bytes(1 << 26)}, ZIP_DEFLATED),
        "names that lead outside": rezip({f"../{name}": entry for name, entry in entries.items()}),
        "no weights": rezip({"config.json": entries["config.json"]}),
        "no description": rezip({"model.weights.h5": entries["model.weights.h5"]}),
        "brackets without end": rezip(entries | {"config.json": b"[" * (1 << 20)}),
        "no JSON": rezip(entries | {"config.json": b"\xff\xfe"}),
        "a number for a model": described(3),
        "a layer within a layer without end": described(config | {"config": {"layers": [within]}}),
        "layers that are none": described(config | {"config": {"layers": [1, 2]}}),
        "layers by a name": described(config | {"config": {"layers": {"gru": {}}}}),
        "a model of a class that is not Keras'": described(config | {"class_name": "Evil"}),
    }


def program(good: bytes) -> dict[str, bytes]:
    """Made from an exported program; the digests fit, so that only the program is corrupted."""
    entries = unzip(good)
    metadata, content = json.loads(entries["note.json"]), entries["program"]

    def made(program: bytes, **changes: Any) -> bytes:
        digest = hashlib.sha256(program).hexdigest()
        note = json.dumps(metadata | {"sha256": digest} | changes).encode()
        return rezip({"note.json": note, "program": program})

    return {
        "empty": b"",
        "a program of no bytes": made(b""),
        "a program of other bytes": made(bytes(range(256)) * 8),
        "a program of zeros": made(bytes(len(content))),
        "half a program": made(content[: len(content) // 2]),
        "a program of one byte": made(content[:1]),
        "an offset beyond the end": made(b"\xff\xff\xff\x7f" + content[4:]),
        "other arguments": made(content, arguments=[]),
        "other platforms": made(content, platforms=["tpu"]),
        "null for the arguments": made(content, arguments=None),
        "another version": made(content, version=2),
        "a digest of another program": rezip(
            {"note.json": entries["note.json"], "program": content + b"x"}
        ),
        "no program": rezip({"note.json": entries["note.json"]}),
        "no metadata": rezip({"program": content}),
        "metadata that are a list": rezip({"note.json": b"[]", "program": content}),
        "compressed": rezip(entries, ZIP_DEFLATED),
    }
