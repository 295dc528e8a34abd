"""Runs in a bucket of Google Cloud Storage, `gs://BUCKET/PATH`.

Objects cannot be appended to, and a bucket has no locks. So a command works on a copy in a
temporary folder, as it would on a directory, and what has changed is uploaded. Checkpoints are not
copied: :func:`gru_jax.training.fit` saves and restores them in the bucket itself.

A process may be killed at any time. What a checkpoint needs, above all the rows of metrics before
it, is uploaded before the checkpoint is saved, and the summary, which marks a run as finished,
after everything else. So what the bucket holds is always a run that the same command resumes.
"""

import contextlib
import errno
import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.extras import require
from experiments.runs import bucket_lock
from experiments.runs.lock import LOCK
from experiments.status import doing

# What is of no use to a command that resumes a run, and what is of none to those that read one.
NOT_RESUMED = ("checkpoints", "profile")
NOT_READ = (*NOT_RESUMED, "mlflow", "tensorboard", "wandb")
# The most that is copied from a bucket, in objects and in bytes.
MOST_FILES = 10_000
LARGEST = 2**30
CONNECTIONS = 8
# Characters of an error of the client.
LONGEST_REASON = 300
# The temporary folders under way. Each stands for gs://: BUCKET/PATH is below it.
_roots: list[Path] = []
# The copies under way that are uploaded, by their folders.
_written: dict[Path, "_Copy"] = {}


class BucketError(OSError):
    """A bucket cannot be written."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}."


def check_url(text: str) -> None:
    """Checks the URL of a run, as an argument has it.

    Raises:
        UserError: it is not gs://BUCKET/PATH, or the extra is not installed.
    """
    if not _is_safe(text.removeprefix("gs://").removesuffix("/")):
        raise UserError(f"{text} is not the URL of a run, gs://BUCKET/PATH.")
    require("gcsfs", "gcs", needed_by=text)


def url_of(path: Path) -> str | None:
    """Returns the URL that is the value of an option; None if it is a path of this machine.

    As a path it has lost one of its slashes.
    """
    match = re.fullmatch(r"gs:/([^/].*)", path.as_posix())
    return match and f"gs://{match[1]}"


def original(path: Path) -> Path | str:
    """Returns the URL that a path in a copy, or the value of an option, stands for; else the path.

    Messages name it, and checkpoints are there.
    """
    for root in _roots:
        if root in path.parents:
            return f"gs://{path.relative_to(root).as_posix()}"
    return url_of(path) or path


def named(text: str) -> str:
    """Returns a text with URLs in place of paths in copies."""
    for root in _roots:
        text = text.replace(f"{root}{os.sep}", "gs://")
    return text


def check_output(path: Path, output: Path | None) -> None:
    """Raises UserError if runs in a bucket are read, and what is written has no place elsewhere."""
    if output is None and (url := url_of(path)):
        raise UserError(
            f"{url} is only read: --output is missing, a place on this machine for what is written."
        )


@contextlib.contextmanager
def read_copy(path: Path) -> Iterator[Path]:
    """Copies what is at a URL, without what only training needs; yields a directory as it is.

    Errors for users name the URL.

    Raises:
        UserError: the bucket cannot be read, holds more than is copied, or names that are none of
            files.
    """
    if (url := url_of(path)) is None:
        yield path
        return
    with _root() as root:
        copy = _Copy(url, root)
        copy.download(NOT_READ)
        yield copy.folder


@contextlib.contextmanager
def work_on(url: str) -> Iterator[Path]:
    """Locks the run at a URL against other processes, copies it, and uploads it at the end.

    Raises:
        HeldError: another process holds the run, or may hold it.
        UserError: as :func:`read_copy`, or the bucket cannot be written.
        BucketError: what has changed cannot be uploaded.
    """
    with _root() as root:
        copy = _Copy(url, root)
        with _user_errors(url):
            bucket_lock.take(copy.client, url)
        try:
            copy.download(NOT_RESUMED)
            _written[copy.folder] = copy
            try:
                yield copy.folder
            finally:
                del _written[copy.folder]
                copy.upload()
        finally:
            bucket_lock.release(copy.client, url)


@contextlib.contextmanager
def stand_in(url: str) -> Iterator[Path]:
    """Yields a folder for the run at a URL that another process of the same command works on."""
    with _root() as root:
        yield root / url.removeprefix("gs://")


def is_written(folder: Path) -> bool:
    """Whether a directory is a copy that :func:`upload` uploads."""
    return folder in _written


def upload(folder: Path) -> None:
    """Uploads what has changed in a copy on which this process works.

    Raises:
        BucketError: the bucket cannot be written.
    """
    _written[folder].upload()


class _Copy:
    """The copy of what is at a URL.

    Attributes:
        client: the client of the bucket.
        folder: directory of the copy.
    """

    def __init__(self, url: str, root: Path):
        self.client = _client()
        self.folder = root / url.removeprefix("gs://")
        self.folder.mkdir(parents=True)
        self._url, self._prefix = url, f"{url.removeprefix('gs://')}/"
        # Time and size of each file when it was the same as its object.
        self._known: dict[str, tuple[int, int]] = {}

    def download(self, skipped: Collection[str]) -> None:
        """Copies all objects but those in folders of these names."""
        with doing(f"Reading {self._url}", after=1.0), _user_errors(self._url):
            sizes = {
                name.removeprefix(self._prefix): info["size"]
                for name, info in self.client.find(self._prefix, detail=True).items()
                # Some programs make an object for a folder.
                if name.startswith(self._prefix) and not name.endswith(("/", f"/{LOCK}"))
            }
            names = [name for name in sizes if not {*name.split("/")[:-1]} & {*skipped}]
            for name in names:
                if not _is_safe(name):
                    raise UserError(f"{self._url}/{name} cannot be copied: it is no file's name.")
            size = sum(sizes[name] for name in names)
            if len(names) > MOST_FILES or size > LARGEST:
                raise UserError(
                    f"{self._url} holds {len(names):,} files of {size / 2**20:,.0f} MiB, more than "
                    f"the {MOST_FILES:,} files and {LARGEST / 2**20:,.0f} MiB that are copied."
                )
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                contents = pool.map(lambda name: self.client.cat_file(self._prefix + name), names)
                for name, content in zip(names, contents, strict=True):
                    path = self.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    self._known[name] = _signature(path)

    def upload(self) -> None:
        """Uploads new and changed files, the summary last, and removes objects of removed ones."""
        files = {
            path.relative_to(self.folder).as_posix(): path
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
        }
        # The config first: without one, a directory is no run.
        for name in sorted(files, key=lambda n: (n == "summary.json", n != "config.yaml", n)):
            # Trackers have threads that remove files.
            with contextlib.suppress(FileNotFoundError):
                signature = _signature(files[name])
                if self._known.get(name) != signature:
                    self._upload_file(name, files[name].read_bytes())
                    self._known[name] = signature
        for name in [name for name in self._known if not (self.folder / name).exists()]:
            with _upload_errors(f"{self._url}/{name}"):
                self.client.rm_file(self._prefix + name)
            del self._known[name]

    def _upload_file(self, name: str, content: bytes) -> None:
        with _upload_errors(f"{self._url}/{name}"):
            self.client.pipe_file(self._prefix + name, content)


class _NameUrls(logging.Filter):
    """Puts URLs in place of paths in copies into what libraries log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = named(record.getMessage()), ()
        return True


@contextlib.contextmanager
def _root() -> Iterator[Path]:
    """Yields a temporary folder that stands for gs://."""
    with tempfile.TemporaryDirectory(prefix="gru_jax-") as name:
        root = Path(name).resolve()
        _roots.append(root)
        name_urls, handlers = _NameUrls(), list(logging.getLogger().handlers)
        for handler in handlers:
            handler.addFilter(name_urls)
        try:
            yield root
        except UserError as error:
            raise type(error)(named(str(error))) from error.__cause__
        finally:
            for handler in handlers:
                handler.removeFilter(name_urls)
            _roots.remove(root)


@contextlib.contextmanager
def _user_errors(url: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # The client has errors of its own.
    except Exception as error:
        raise UserError(f"{url} cannot be used: {_reason(error)}.") from error


@contextlib.contextmanager
def _upload_errors(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise BucketError(errno.EIO, f"cannot be written: {_reason(error)}", url) from error


def _client() -> Any:
    import fsspec

    # It logs each error with a traceback.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A listing that is kept lacks what other processes write.
    return fsspec.filesystem("gs", use_listings_cache=False)


def _is_safe(name: str) -> bool:
    """Whether a name is a path that stays below the folder that it is relative to."""
    parts = {*name.split("/")}
    return not parts & {"", ".", ".."} and "\\" not in name and "\0" not in name


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:LONGEST_REASON]}".rstrip(": .")
