"""Downloads: after any interruption the file is complete or absent, and no byte is sent twice."""

import dataclasses
import hashlib
import io
import re
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from experiments.datasets import download, registry
from experiments.datasets.registry import DataFile
from experiments.errors import UserError
from tests.experiments.flaky_server import CONTENT, data_file, files_in, serving


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def published(server):
    return data_file(server.url)


@pytest.fixture
def begin(published, tmp_path):
    """Makes the partial file of an interrupted download."""
    partial = tmp_path / "folder" / ".Published.mat.partial"

    def leave(content):
        partial.parent.mkdir()
        partial.write_bytes(content)
        return partial

    return leave


def archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def packed(server):
    """An archive that is identified by the hash of its members."""
    server.content = archive({"one.wav": CONTENT[:1000], "two.wav": CONTENT[1000:5000]})
    file = DataFile("packed", "packed.zip", "", 10**6, "", members=".wav")
    sha256 = file.digest(io.BytesIO(server.content))
    return dataclasses.replace(file, url=server.url, sha256=sha256)


def test_a_file_is_downloaded_without_leftovers(published, tmp_path):
    path = download.download(published, tmp_path / "new")
    assert path == tmp_path / "new" / "folder" / "Published.mat"
    assert path == registry.locate(published, tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert files_in(tmp_path) == ["Published.mat"]


def test_a_file_url_is_supported(tmp_path):
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    path = download.download(data_file(original.as_uri()), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_valid_file_is_not_downloaded_again(published, server, tmp_path):
    path = download.download(published, tmp_path)
    assert download.download(published, tmp_path) == path
    assert len(server.asked) == 1


def test_an_invalid_file_is_replaced(published, tmp_path):
    path = tmp_path / published.filename
    path.parent.mkdir()
    path.write_bytes(CONTENT[:100])
    assert download.download(published, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("there", [1, 150_000, len(CONTENT) - 1])
def test_only_the_rest_is_requested(published, server, begin, tmp_path, there):
    begin(CONTENT[:there])
    path = download.download(published, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [f"bytes={there}-"]
    assert server.sent == [len(CONTENT) - there]
    assert files_in(tmp_path) == ["Published.mat"]


def test_a_complete_partial_file_needs_no_request(published, server, begin, tmp_path):
    begin(CONTENT)
    assert download.download(published, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_the_range_is_requested_again_after_a_redirect(published, server, begin, tmp_path):
    begin(CONTENT[:1000])
    moved = dataclasses.replace(published, url=published.url.replace("/file", "/moved"))
    assert download.download(moved, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("length", ["announced", "chunked", "unsaid"])
def test_a_server_without_ranges_is_read_from_the_beginning(
    published, server, begin, tmp_path, length
):
    begin(CONTENT[:1000])
    server.ranges, server.length = False, length
    assert download.download(published, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        (b"x" * 1000, ["bytes=1000-", None]),
        (b"x" * len(CONTENT), [None]),
        (CONTENT + b"x", [None]),
    ],
    ids=["other", "all other", "longer"],
)
def test_a_wrong_partial_file_is_reported_and_replaced_once(
    published, server, begin, tmp_path, capsys, there, asked
):
    begin(there)
    assert download.download(published, tmp_path).read_bytes() == CONTENT
    assert server.asked == asked
    assert "Published.mat" in (printed := capsys.readouterr().err)
    assert printed.count("Downloading it again from the beginning.") == 1


def test_changed_content_is_rejected(published, server, begin, tmp_path):
    begin(CONTENT[:1000])
    server.content = bytes(len(CONTENT))
    with pytest.raises(UserError, match="is not the expected file: its SHA-256 is"):
        download.download(published, tmp_path)
    assert server.asked == ["bytes=1000-", None]
    assert files_in(tmp_path) == []


def test_wrong_content_is_rejected_and_the_old_file_stays(published, server, tmp_path):
    path = tmp_path / published.filename
    path.parent.mkdir()
    path.write_bytes(b"mine")
    server.content = bytes(len(CONTENT))
    with pytest.raises(UserError, match="Nothing was written") as error:
        download.download(published, tmp_path)
    assert hashlib.sha256(server.content).hexdigest() in str(error.value)
    assert published.sha256 in str(error.value)
    assert path.read_bytes() == b"mine"
    assert files_in(tmp_path) == ["Published.mat"]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"<html>"])
def test_another_size_is_rejected_before_anything_is_written(published, server, tmp_path, content):
    server.content = content
    message = f"it has {len(content):,} bytes, but should have {len(CONTENT):,}"
    with pytest.raises(UserError, match=message):
        download.download(published, tmp_path)
    assert files_in(tmp_path) == []


def test_the_partial_file_survives_a_response_of_another_size(published, server, begin, tmp_path):
    partial = begin(CONTENT[:1000])
    server.ranges, server.content = False, b"log in first"
    with pytest.raises(UserError, match="it has 12 bytes"):
        download.download(published, tmp_path)
    assert partial.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("length", ["chunked", "unsaid"])
def test_a_response_beyond_the_size_is_not_read_to_its_end(published, server, tmp_path, length):
    server.content, server.length = bytes(10**7), length
    with pytest.raises(UserError, match=r"bytes or more, but should have 300,000") as error:
        download.download(published, tmp_path)
    read = int(re.search(r"it has ([\d,]+) bytes", str(error.value))[1].replace(",", ""))
    assert len(CONTENT) < read <= len(CONTENT) + download.CHUNK
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("length", ["announced", "chunked", "unsaid"])
def test_an_interrupted_download_resumes(published, server, tmp_path, length):
    server.length, server.breaks_after = length, 200_000
    with pytest.raises(
        UserError, match="was interrupted after 200,000 bytes: the connection"
    ) as error:
        download.download(published, tmp_path)
    assert f"`python -m experiments fetch published --data-dir {tmp_path}`" in str(error.value)
    assert files_in(tmp_path) == [".Published.mat.partial"]
    assert download.download(published, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=200000-"]
    assert server.sent == [200_000, 100_000]


def test_a_hanging_server_times_out(published, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    server.breaks_after, server.stalls = 1000, True
    with pytest.raises(UserError, match=r"was interrupted after 1,000 bytes: .*timed out"):
        download.download(published, tmp_path)


def test_an_archive_of_unknown_size_resumes(packed, server, tmp_path):
    server.length, server.breaks_after = "chunked", 3000
    with pytest.raises(UserError, match="was interrupted after 3,000 bytes"):
        download.download(packed, tmp_path)
    server.breaks_after = None
    assert download.download(packed, tmp_path).read_bytes() == server.content
    assert server.asked == [None, "bytes=3000-"]


@pytest.mark.parametrize("right", [True, False])
def test_a_partial_file_of_the_size_of_the_archive_may_be_complete(packed, server, tmp_path, right):
    """The server responds that the range is not satisfiable (416)."""
    size = len(server.content)
    (tmp_path / ".packed.zip.partial").write_bytes(server.content if right else bytes(size))
    assert download.download(packed, tmp_path).read_bytes() == server.content
    assert server.asked == [f"bytes={size}-", *([] if right else [None])]


def test_a_repacked_archive_is_downloaded_again(packed, server, tmp_path):
    (tmp_path / ".packed.zip.partial").write_bytes(server.content[:3000])
    with zipfile.ZipFile(io.BytesIO(server.content)) as opened:
        members = {name: opened.read(name) for name in reversed(opened.namelist())}
    server.content = archive(members)
    assert download.download(packed, tmp_path).read_bytes() == server.content
    assert server.asked == ["bytes=3000-", None]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///nowhere", "No such file or directory"),
        ("http://127.0.0.1:{port}/elsewhere", "HTTP Error 404: Not Found"),
        ("http://127.0.0.1:1/file", "Connection refused"),
    ],
)
def test_a_failing_url_is_named(published, server, begin, tmp_path, url, reason):
    partial = begin(CONTENT[:1000])
    url = url.format(port=server.server_port)
    expected = f"{re.escape(url)} cannot be downloaded: .*{reason}"
    with pytest.raises(UserError, match=expected):
        download.download(dataclasses.replace(published, url=url), tmp_path)
    with pytest.raises(UserError, match=expected):
        download.download(dataclasses.replace(published, url=url), tmp_path / "none")
    assert partial.read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "none").exists()


def test_a_path_that_cannot_be_written_is_named(published, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Published\.mat cannot be written: Not a directory"):
        download.download(published, tmp_path / "file")


def test_progress_is_shown_on_a_terminal(published, begin, tmp_path, capsys, monkeypatch):
    begin(CONTENT[:1000])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download.download(published, tmp_path)
    printed = capsys.readouterr().err
    assert "Published.mat: 100%" in printed
    assert "300k/300k" in printed


PROCESS = """
import signal
import sys
from experiments import cli
from experiments.datasets import registry

# A shell that runs the tests in the background makes them inherit an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
name, url, size, sha256, directory = sys.argv[1:]
file = registry.DataFile(name, "folder/Published.mat", url, int(size), sha256)
registry.DATA_SETS[name] = registry.DataSet(name, "home", None, (file,))
sys.exit(cli.main(["fetch", name, "--data-dir", directory]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_process_leaves_a_partial_file(published, server, tmp_path, number):
    server.breaks_after, server.stalls = 1000, True
    values = (published.data_set, published.url, len(CONTENT), published.sha256, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, values)], stderr=subprocess.PIPE, text=True
    )
    partial = tmp_path / "folder" / ".Published.mat.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size == 1000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.endswith(" resumes it.\nStopped by Ctrl-C.\n")
    assert files_in(tmp_path) == [".Published.mat.partial"]
    server.breaks_after, server.stalls = None, False
    assert download.download(published, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]
    assert server.sent == [1000, len(CONTENT) - 1000]
