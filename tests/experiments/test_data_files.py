"""Data files: accepted only with the right hash."""

import hashlib

import pytest

from experiments.datasets import registry
from experiments.errors import UserError

CONTENT = b"published\n" * 1000


@pytest.fixture
def published():
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    url = "https://example.org/Published.mat"
    return registry.DataFile("published", "Published.mat", url, len(CONTENT), sha256)


def test_locate_returns_the_path(published, tmp_path):
    path = tmp_path / published.filename
    path.write_bytes(CONTENT)
    assert registry.locate(published, tmp_path) == path


def test_locate_says_how_to_get_an_absent_file(published, tmp_path):
    with pytest.raises(UserError, match="is absent") as error:
        registry.locate(published, tmp_path)
    assert published.url in str(error.value)
    assert f"python -m experiments fetch published --data-dir {tmp_path}" in str(error.value)


@pytest.mark.parametrize("corrupt", [lambda c: c[:-1], lambda c: b"x" + c[1:], lambda c: b""])
def test_locate_names_a_corrupted_file(published, tmp_path, corrupt):
    (tmp_path / published.filename).write_bytes(corrupt(CONTENT))
    with pytest.raises(UserError, match="not the published file") as error:
        registry.locate(published, tmp_path)
    assert hashlib.sha256(corrupt(CONTENT)).hexdigest() in str(error.value)
    assert published.sha256 in str(error.value)


def test_locate_names_a_corrupted_archive(tmp_path):
    (tmp_path / registry.SPOKEN_DIGITS.filename).write_bytes(CONTENT)
    with pytest.raises(UserError, match="it is not a valid archive"):
        registry.locate(registry.SPOKEN_DIGITS, tmp_path)


@pytest.mark.parametrize("name", registry.DATA_SETS)
def test_locate_names_the_data_set_of_a_file(name, tmp_path):
    for file in registry.DATA_SETS[name].files:
        with pytest.raises(UserError, match=f"`python -m experiments fetch {name} --data-dir "):
            registry.locate(file, tmp_path / "a place")


def test_data_directory_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GRU_JAX_DATA", str(tmp_path))
    assert registry.default_data_dir() == tmp_path
    monkeypatch.delenv("GRU_JAX_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.default_data_dir() == tmp_path / ".cache" / "gru_jax"


def test_training_without_the_data_says_how_to_get_them(music, write_config, user_error, tmp_path):
    message = user_error("train", write_config(music), "--data-dir", tmp_path / "none")
    assert "python -m experiments fetch jsb" in message
    assert "raw.githubusercontent.com" in message


def test_the_published_files_have_the_hashes_expected(published_data):
    for data_set in registry.DATA_SETS.values():
        for file in data_set.files:
            path = registry.locate(file, published_data)
            size = path.stat().st_size
            assert size <= file.size if file.members else size == file.size
