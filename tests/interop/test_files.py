"""What all readers of files share: bounds, one kind of error, and what is missing is named."""

import io
import json
import re
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.interop.bad_files.formats import keras_h5
from gru_jax.interop import hdf5
from gru_jax.interop.files import (
    FileError,
    file_errors,
    import_optional,
    parse_safetensors,
    read_bytes,
    read_safetensors,
)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match=f"{tmp_path.name}: Is a directory"):
        read_bytes(tmp_path)
    with pytest.raises(FileError, match="absent: No such file"):
        read_safetensors(tmp_path / "absent")


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    # Whether or not another test has imported it.
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setitem(sys.modules, "keras.layers", None)
    with pytest.raises(ImportError, match=r"keras is needed .* pip install 'gru-jax\[interop\]'"):
        import_optional("keras.layers")


@pytest.mark.parametrize("extra", ["files", "flax"])
def test_a_small_extra_is_named_where_it_is_enough(monkeypatch, extra):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    for requirement in project["project"]["optional-dependencies"][extra]:
        name = re.split("[<>=]", requirement)[0]
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"^{name} is .* pip install -e '\.\[{extra}\]'$"):
            import_optional(name)


@pytest.mark.parametrize(
    ("program", "expected"),
    [("import os; os.abort()", "failed on it, exit code -6"), ("while True: pass", "did not read")],
)
def test_a_crash_and_a_hang_of_the_hdf5_library_are_errors(
    program, expected, tmp_path, monkeypatch
):
    (tmp_path / "reader.py").write_text(program)
    monkeypatch.setattr(hdf5, "READER", tmp_path / "reader.py")
    monkeypatch.setattr(hdf5, "SECONDS", 1)
    with pytest.raises(ValueError, match=expected):
        hdf5.parse_hdf5(b"")


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        ("open('/etc/hostname')", "Too many open files"),
        ("bytearray(1 << 32)", "MemoryError"),
    ],
)
def test_the_reader_of_hdf5_has_limits(attempt, expected):
    """Once they stand, no file can be opened, even for the library's own ends."""
    limit = f"import runpy; runpy.run_path({str(hdf5.READER)!r})['_limit'](0)"
    command = [sys.executable, "-c", f"{limit}; {attempt}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("program", "max_bytes", "max_seconds"),
    [("x = b'1' * (1 << 28); input()", 1 << 27, 60), ("while True: pass", 1 << 30, 0.1)],
    ids=["memory", "time"],
)
def test_a_process_is_watched_where_the_system_has_no_limits(program, max_bytes, max_seconds):
    pytest.importorskip("psutil")
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        hdf5.watch(process, max_bytes, max_seconds)
        assert process.wait(timeout=60)


def test_hdf5_arrays_come_by_their_path(tmp_path):
    arrays = hdf5.parse_hdf5(keras_h5(tmp_path).good)
    assert {path: array.shape for path, array in arrays.items()} == {
        "layers/gru/cell/vars/0": (3, 6),
        "layers/gru/cell/vars/1": (2, 6),
        "layers/gru/cell/vars/2": (2, 6),
    }


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('{"a": null}', "a has no dtype"),
        ('{"a": {"dtype": null, "shape": [], "data_offsets": [0, 4]}}', "a has dtype None"),
        ('{"a": {"dtype": [], "shape": [], "data_offsets": [0, 4]}}', r"a has dtype \[\]"),
        ('{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}', "corrupted shape"),
        ('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "corrupted shape"),
        ('{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}', "corrupted shape"),
        ('{"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}', "corrupted place"),
        ('{"a": {"dtype": "F32", "shape": [], "data_offsets": {"0": 4}}}', "corrupted shape"),
        ('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "a name is there twice"),
        ('{"__metadata__": {"format": null}}', "not strings by name"),
        ('{"__metadata__": null}', "not strings by name"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("null", "not an object"),
        ('{"a": 1}' + " " * (2 << 20), "more than the limit of 2097152"),
    ],
    ids=range(16),
)
def test_nulls_and_wrong_types_in_headers_are_named(header, expected):
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(4)
    with pytest.raises(ValueError, match=expected):
        parse_safetensors(data)


def test_arrays_that_overlap_or_leave_gaps_are_rejected():
    for places in ([(0, 4), (0, 4)], [(0, 4), (2, 6)], [(4, 8), (8, 12)], [(0, 4), (8, 12)]):
        entries = {
            str(at): {"dtype": "F32", "shape": [1], "data_offsets": place}
            for at, place in enumerate(places)
        }
        header = json.dumps(entries).encode()
        with pytest.raises(ValueError, match="bytes of other arrays"):
            parse_safetensors(struct.pack("<Q", len(header)) + header + bytes(12))


def test_messages_are_of_bounded_length(tmp_path):
    with pytest.raises(FileError) as caught, file_errors(tmp_path):
        raise ValueError("x" * 100_000)
    assert len(str(caught.value)) < 1200


def test_hdf5_arrays_are_read_however_they_are_stored():
    """In place, converted, compact, as bfloat16, never written, and after a user block."""
    h5py = pytest.importorskip("h5py")
    out = io.BytesIO()
    with h5py.File(out, "w", userblock_size=512) as file:
        expected = {
            "layers/a": np.arange(6, dtype="<f4").reshape(2, 3),
            "layers/b": np.arange(3, dtype=">f8"),
            "layers/c": np.arange(5, dtype="<f2"),
        }
        for name, array in expected.items():
            file[name] = array
        file.create_dataset("unwritten", (2, 2), "<f4", fillvalue=0.5)
        file.create_dataset("none", (0, 3), "<f4")
        file["brain"] = np.arange(4, dtype=jnp.bfloat16).view("V2")
        file["brain"].attrs["dtype"] = "bfloat16"
        file["integers"] = np.arange(3)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        kind = h5py.h5t.IEEE_F32LE
        compact = h5py.Dataset(h5py.h5d.create(file.id, b"compact", kind, space, creation))
        compact[:] = [1, 2, 3]
        expected |= {
            "unwritten": np.full((2, 2), 0.5, "f4"),
            "none": np.zeros((0, 3), "f4"),
            "brain": np.arange(4, dtype=jnp.bfloat16),
            "compact": np.array([1, 2, 3], "f4"),
        }
    arrays = hdf5.parse_hdf5(out.getvalue())
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
