"""Files that `torch.save` writes are read without PyTorch, within bounds."""

import io
import struct
import time
import zipfile

import jax
import numpy as np
import pytest

import gru_jax
from experiments.interop.bad_files import pt
from experiments.interop.bad_files.archives import rezip
from gru_jax.interop import torch as interop
from gru_jax.interop.archive import Archive
from gru_jax.interop.files import FileError
from gru_jax.interop.torch_pickle import read_torch_file
from tests.assert_trees import assert_equal

ENTRIES = {"a": b"12", "b/c": b""}


def write(**options):
    """An archive written entry by entry, with these options of `ZipFile.open`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in ENTRIES.items():
            with archive.open(name, "w", **options) as entry:
                entry.write(content)
    return out.getvalue()


class Stream(io.BytesIO):
    """A file that `zipfile` cannot seek in, so that checksums follow the entries."""

    def seekable(self):
        return False


def streamed():
    out = Stream()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in ENTRIES.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    "data", [rezip(ENTRIES), write(), write(force_zip64=True), streamed()], ids=range(4)
)
def test_an_archive_is_read(data):
    archive = Archive(data)
    assert archive.names == list(ENTRIES)
    assert {name: bytes(archive.read(name)) for name in archive.names} == ENTRIES
    assert "a" in archive
    assert "c" not in archive
    with pytest.raises(ValueError, match="no entry 'c'"):
        archive.read("c")


def with_a_gap():
    data = bytearray(rezip(ENTRIES))
    start = zipfile.ZipFile(io.BytesIO(data)).start_dir
    at = len(data) - 6
    data[at : at + 4] = struct.pack("<I", start + 3)
    return bytes(data[:start] + b"gap" + data[start:])


def changed(old, new, last=False):
    data = rezip(ENTRIES)
    at = data.rindex(old) if last else data.index(old)
    return data[:at] + new + data[at + len(old) :]


AMBIGUOUS = {
    "bytes ahead of it": (b"MZ" + rezip(ENTRIES), "not where its end record says"),
    "bytes after it": (rezip(ENTRIES) + b"more", "does not end with an end record"),
    "bytes between the entries and the directory": (with_a_gap(), "belong to no entry"),
    "a comment that holds an end record": (
        changed(b"\0\0", b"\x16\0", last=True) + rezip({}), "not where its end record says"
    ),
    "two archives": (rezip(ENTRIES) + rezip(ENTRIES), "not where its end record says"),
    "another name in the entry": (changed(b"b/c", b"b/d"), "differs from the directory"),
    "another name in the directory": (changed(b"b/c", b"b/d", True), "differs from the directory"),
    "compressed": (rezip(ENTRIES, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "no archive": (b"PK", "no valid ZIP archive"),
    "two directories": (pt.two_directories(2, 1 << 16), "not where its end record says"),
    "a directory larger than its limit": (
        rezip({f"{at:0>1000}": b"" for at in range(2100)}), "more than the limit"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_archives_that_two_readers_may_understand_differently_are_rejected(name):
    data, message = AMBIGUOUS[name]
    with pytest.raises(ValueError, match=message):
        Archive(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_rejected():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(ValueError, match="two entries 'a'"):
        Archive(out.getvalue())


def test_corrupted_content_is_found_by_its_checksum():
    archive = Archive(changed(b"12", b"13"))
    with pytest.raises(ValueError, match="'a' is corrupted"):
        archive.read("a")


def test_a_state_dict_is_read_without_pytorch(tmp_path):
    stack = gru_jax.init_stack(jax.random.key(0), 3, 4, num_layers=2, bidirectional=True)
    state_dict = interop.dump(stack, tensors=False)
    path = tmp_path / "gru.pt"
    path.write_bytes(pt.save(state_dict))
    assert_equal(interop.load(path), interop.load(state_dict))
    loaded = read_torch_file(path.read_bytes())
    assert list(loaded) == list(state_dict)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_a_tensor_is_a_view_of_its_storage():
    elements = np.arange(12, dtype=np.int64)
    code = pt.program({"x": pt.tensor("0", 12, (2, 3), (1, 4), "int64")})
    loaded = read_torch_file(pt.archive(code, {"0": elements.tobytes()}))
    np.testing.assert_array_equal(loaded["x"], elements.reshape(3, 4).T[:2])


def test_tensors_of_pytorch_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in (torch.float16, torch.float64, torch.int32, torch.bool, torch.uint8):
        tensor = (3 * torch.randn(4, 5)).to(dtype).t()[1:]
        torch.save({"model": {"x": tensor}, "epoch": 3, "rate": [0.1, None]}, tmp_path / "x.pt")
        loaded = read_torch_file((tmp_path / "x.pt").read_bytes())
        np.testing.assert_array_equal(loaded["model"]["x"], tensor.numpy())
        assert (loaded["epoch"], loaded["rate"]) == (3, [0.1, None])


ADVERSARIAL = pt.adversarial()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_hostile_files_are_rejected_within_the_bounds(name, tmp_path):
    path = tmp_path / "bad.pt"
    path.write_bytes(ADVERSARIAL[name])
    begin = time.process_time()
    with pytest.raises(FileError, match=r"bad\.pt: ") as caught:
        interop.load(path)
    assert len(str(caught.value)) < 1200
    assert time.process_time() - begin < 5 + path.stat().st_size / 1e7
