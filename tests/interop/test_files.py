"""What all readers of files share: bounds, one kind of error, and what is missing is named."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.interop.bad_files.formats import keras_h5
from gru_jax.interop import hdf5
from gru_jax.interop.files import (
    FileError,
    import_optional,
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


def test_hdf5_arrays_come_by_their_path(tmp_path):
    arrays = hdf5.parse_hdf5(keras_h5(tmp_path).good)
    assert {path: array.shape for path, array in arrays.items()} == {
        "layers/gru/cell/vars/0": (3, 6),
        "layers/gru/cell/vars/1": (2, 6),
        "layers/gru/cell/vars/2": (2, 6),
    }
