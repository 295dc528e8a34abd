"""Adversarial ONNX models raise an error that names the file and the fault."""

import time

import pytest

pytest.importorskip("onnx")

from experiments.interop.bad_files.adversarial_onnx import (
    ADVERSARIAL,
    LONG,
    chain,
    followed_by,
    gru,
    looked_at_again,
    many_fields,
    sliced_again,
)
from gru_jax.interop import onnx as converter
from gru_jax.interop.files import FileError
from tests.assert_trees import assert_equal


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_models_are_rejected(name, tmp_path):
    make, message = ADVERSARIAL[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "beside").write_bytes(bytes(10))
    path = folder / "bad.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(FileError) as caught:
        converter.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("make", [lambda: chain(40), lambda: followed_by(*LONG)])
def test_irrelevant_nodes_take_neither_memory_nor_time(make):
    assert_equal(converter.load(make()), gru())


@pytest.mark.parametrize("make", [looked_at_again, sliced_again])
def test_what_was_looked_at_is_remembered(make):
    """Each node would otherwise take 2 ms."""
    model = make(3000)
    begin = time.process_time()
    assert_equal(converter.load(model), gru())
    assert time.process_time() - begin < 5


def test_fields_are_counted_before_they_take_memory(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(many_fields(4_000_000))
    begin = time.process_time()
    with pytest.raises(FileError, match="more than the limit of 500000 fields"):
        converter.load(path)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("path", ["nowhere.onnx", "."])
def test_missing_files_are_named(path):
    with pytest.raises(FileError, match=path):
        converter.load(path)
