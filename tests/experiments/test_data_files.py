"""Data files: found only where their hash is right, fetched whole or not at all."""

import dataclasses
import hashlib
import http.server
import threading

import pytest

from experiments import data
from experiments.cli import main
from experiments.download import download
from experiments.errors import UserError

CONTENT = b"published\n" * 1000


@pytest.fixture
def published(tmp_path):
    """A data file published at a file:// address."""
    original = tmp_path / "server" / "Published.mat"
    original.parent.mkdir()
    original.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return data.DataFile("published", original.name, original.as_uri(), len(CONTENT), sha256)


def test_fetch_then_locate(published, tmp_path):
    fetched = download(published, tmp_path / "made" / "for it")
    assert fetched == data.locate(published, tmp_path / "made" / "for it")
    assert fetched.read_bytes() == CONTENT
    assert [file.name for file in fetched.parent.iterdir()] == ["Published.mat"]


def test_fetch_leaves_a_file_that_is_right(published, tmp_path):
    path = download(published, tmp_path)
    unreachable = dataclasses.replace(published, url="file:///nowhere")
    assert download(unreachable, tmp_path) == path


def test_fetch_replaces_a_file_that_is_not_right(published, tmp_path):
    path = tmp_path / published.filename
    path.write_bytes(CONTENT[:100])
    assert download(published, tmp_path).read_bytes() == CONTENT


def test_fetch_refuses_other_content_and_keeps_what_there_was(published, tmp_path):
    path = tmp_path / published.filename
    path.write_bytes(b"mine")
    other = dataclasses.replace(published, sha256="0" * 64)
    with pytest.raises(UserError, match="Nothing was written") as error:
        download(other, tmp_path)
    assert published.sha256 in str(error.value)
    assert "0" * 64 in str(error.value)
    assert path.read_bytes() == b"mine"


def test_fetch_names_the_address_that_does_not_answer(published, tmp_path):
    with pytest.raises(UserError, match="file:///nowhere cannot be downloaded"):
        download(dataclasses.replace(published, url="file:///nowhere"), tmp_path)


def test_fetch_refuses_a_download_that_broke_off(published, tmp_path):
    class BreaksOff(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/Published.mat"
        with pytest.raises(UserError, match="cannot be downloaded"):
            download(dataclasses.replace(published, url=url), tmp_path / "data")
        thread.join()
    assert not (tmp_path / "data").exists()


def test_fetch_into_a_place_that_cannot_be(published, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        download(published, tmp_path / "file" / "below")


def test_locate_says_how_to_get_an_absent_file(published, tmp_path):
    with pytest.raises(UserError, match="is absent") as error:
        data.locate(published, tmp_path)
    assert published.url in str(error.value)
    assert f"python -m experiments fetch published --data-dir {tmp_path}" in str(error.value)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"x" + c[1:], lambda c: b""])
def test_locate_tells_a_damaged_file(published, tmp_path, damage):
    (tmp_path / published.filename).write_bytes(damage(CONTENT))
    with pytest.raises(UserError, match="not the published file") as error:
        data.locate(published, tmp_path)
    assert hashlib.sha256(damage(CONTENT)).hexdigest() in str(error.value)
    assert published.sha256 in str(error.value)


def test_data_directory_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GRU_JAX_DATA", str(tmp_path))
    assert data.default_data_dir() == tmp_path
    monkeypatch.delenv("GRU_JAX_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / ".cache" / "gru_jax"


def test_the_command_fetches_into_the_directory_given(published, tmp_path, monkeypatch, capsys):
    jsb = dataclasses.replace(data.DATA_SETS["jsb"], files=(published,))
    monkeypatch.setitem(data.DATA_SETS, "jsb", jsb)
    assert main(["fetch", "jsb", "--data-dir", str(tmp_path)]) == 0
    assert str(tmp_path / published.filename) in capsys.readouterr().out
    assert (tmp_path / published.filename).read_bytes() == CONTENT


def test_training_without_the_data_says_how_to_get_them(music, write_config, refused, tmp_path):
    message = refused("train", write_config(music), "--data-dir", tmp_path / "none")
    assert "python -m experiments fetch jsb" in message
    assert "raw.githubusercontent.com" in message


def test_the_published_files_have_the_hashes_expected(published_data):
    for data_set in data.DATA_SETS.values():
        for file in data_set.files:
            assert data.locate(file, published_data) == published_data / file.filename
