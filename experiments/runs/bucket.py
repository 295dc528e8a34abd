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
import json
import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.errors import UserError
from experiments.extras import require
from experiments.runs.lock import LOCK, LONGEST, HeldError, describe, this_process
from experiments.status import doing

# What is of no use to a command that resumes a run, and what is of none to those that read one.
NOT_RESUMED = ("checkpoints", "profile")
NOT_READ = (*NOT_RESUMED, "mlflow", "tensorboard", "wandb")
MOST_FILES = 10_000
"""The largest number of objects that are copied from a bucket."""
LARGEST = 2**30
"""The largest number of bytes that are copied from a bucket."""
CONNECTIONS = 8
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
    """Returns the URL of a path in a copy or of a URL's path; another path unchanged."""
    return next(
        (f"gs://{path.relative_to(root).as_posix()}" for root in _roots if root in path.parents),
        url_of(path) or path,
    )


def named(text: str) -> str:
    """Returns a text with URLs in place of paths in copies."""
    for root in _roots:
        text = text.replace(f"{root}{os.sep}", "gs://")
    return text


def check_output(path: Path, output: Path | None) -> None:
    """Raises UserError if a run in a bucket is read, and its files have no place elsewhere."""
    if output is None and (url := url_of(path)):
        raise UserError(
            f"{url} is only read: --output is missing, a place on this machine for what is written."
        )


@contextlib.contextmanager
def read_copy(path: Path) -> Iterator[Path]:
    """Copies what is at a URL, without what only training needs; yields a directory as it is.

    Errors for users name the URL.

    Raises:
        UserError: the bucket cannot be read, holds more than is copied, or names of no files.
    """
    if (url := url_of(path)) is None:
        yield path
        return
    with _root() as root:
        copy = _Copy(_client(), url, root)
        copy.download(NOT_READ)
        yield copy.folder


@contextlib.contextmanager
def work_on(url: str) -> Iterator[Path]:
    """Holds the run at a URL against other processes, copies it, and uploads it at the end.

    The run is held by an object that names its holder, which only one process can make. If it
    names a process of this host that has ended, it is taken over.

    Raises:
        HeldError: another process holds the run, or may hold it.
        UserError: as :func:`read_copy`, or the bucket cannot be written.
        BucketError: what has changed cannot be uploaded.
    """
    with _root() as root:
        copy = _Copy(_client(), url, root)
        with copy.hold():
            copy.download(NOT_RESUMED)
            _written[copy.folder] = copy
            try:
                yield copy.folder
            finally:
                del _written[copy.folder]
                copy.upload()


@contextlib.contextmanager
def stand_in(url: str) -> Iterator[Path]:
    """Yields an empty folder for the run at a URL, which another process of the command holds."""
    with _root() as root:
        yield root / url.removeprefix("gs://")


def is_written(folder: Path) -> bool:
    """Whether a directory is a copy that :func:`upload` uploads."""
    return folder in _written


def upload(folder: Path) -> None:
    """Uploads what has changed in a copy that this process holds; does nothing for others.

    Raises:
        BucketError: the bucket cannot be written.
    """
    if folder in _written:
        _written[folder].upload()


class _Copy:
    """The copy of what is at a URL.

    Attributes:
        folder: its directory.
    """

    def __init__(self, client: Any, url: str, root: Path):
        self.folder = root / url.removeprefix("gs://")
        self.folder.mkdir(parents=True)
        self._client, self._url = client, url
        # Time and size of each file when it was the same as its object.
        self._known: dict[str, tuple[int, int]] = {}

    def download(self, skipped: Collection[str]) -> None:
        """Copies all objects but those in folders of these names."""
        with doing(f"Reading {self._url}", after=1.0), self._user_errors():
            prefix = f"{self._url.removeprefix('gs://')}/"
            found = self._client.find(prefix, detail=True).items()
            sizes = {
                name.removeprefix(prefix): info["size"]
                for name, info in found
                # Some programs make an object for a folder.
                if name.startswith(prefix) and not name.endswith("/")
            }
            names = [
                name
                for name in sizes
                if not {*name.split("/")[:-1]} & {*skipped} and name.split("/")[-1] != LOCK
            ]
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
                objects = [f"{prefix}{name}" for name in names]
                for name, content in zip(
                    names, pool.map(self._client.cat_file, objects), strict=True
                ):
                    path = self.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    self._known[name] = _signature(path)

    def upload(self) -> None:
        """Uploads new and changed files, the summary last, and removes objects of removed ones."""
        files = {
            path.relative_to(self.folder).as_posix(): path
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        # The config first: without one, a directory is no run.
        for name in sorted(files, key=lambda n: (n == "summary.json", n != "config.yaml", n)):
            signature = _signature(files[name])
            if PurePosixPath(name).name.startswith(".") or self._known.get(name) == signature:
                continue
            with self._bucket_errors(name):
                self._client.pipe_file(self._name(name), files[name].read_bytes())
            self._known[name] = signature
        for name in self._known.keys() - files.keys():
            with self._bucket_errors(name):
                self._client.rm_file(self._name(name))
            del self._known[name]

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Holds what is at the URL by an object that only one process can make."""
        with self._user_errors():
            self._take()
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                self._client.rm_file(self._name(LOCK))

    def _take(self) -> None:
        holder = self._read_holder()
        if holder is not None:
            if not _has_ended(holder):
                raise HeldError(
                    f"{self._url} is in use by {describe(holder)}, or was when that process was "
                    "killed. Wait until it ends, or give another URL. If it does not run any more, "
                    f"remove the object {self._url}/{LOCK}."
                )
            print(
                f"Took over the lock of {self._url} from {describe(holder)}, which was killed.",
                file=sys.stderr,
            )
            self._client.rm_file(self._name(LOCK))
        try:
            content = json.dumps(this_process()).encode()
            self._client.pipe_file(self._name(LOCK), content, mode="create")
        except FileExistsError:
            raise HeldError(
                f"{self._url} is in use by {describe(self._read_holder() or {})}. "
                "Wait until it ends, or give another URL."
            ) from None

    def _read_holder(self) -> dict[str, Any] | None:
        """Returns the content of the lock; empty if it cannot be read, None if there is none."""
        try:
            holder = json.loads(self._client.cat_file(self._name(LOCK), start=0, end=LONGEST))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _name(self, name: str) -> str:
        return f"{self._url.removeprefix('gs://')}/{name}"

    @contextlib.contextmanager
    def _user_errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        # The client has errors of its own.
        except Exception as error:
            raise UserError(f"{self._url} cannot be used: {_reason(error)}.") from error

    @contextlib.contextmanager
    def _bucket_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = f"cannot be written: {_reason(error)}"
            raise BucketError(errno.EIO, reason, f"{self._url}/{name}") from error


@contextlib.contextmanager
def _root() -> Iterator[Path]:
    """Yields a temporary folder that stands for gs://."""
    with tempfile.TemporaryDirectory(prefix="gru_jax-") as name:
        root = Path(name).resolve()
        _roots.append(root)
        try:
            yield root
        except UserError as error:
            raise type(error)(named(str(error))) from error.__cause__
        finally:
            _roots.remove(root)


def _client() -> Any:
    import fsspec

    # It logs each error with a traceback.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A listing that is kept lacks what other processes write.
    return fsspec.filesystem("gs", use_listings_cache=False)


def _is_safe(name: str) -> bool:
    """Whether a name is a path that stays below the folder that it is relative to."""
    return not (
        {"", ".", ".."} & {*name.split("/")} or any(character in name for character in "\\\0")
    )


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a process is known to have ended."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return False
    # A container that is started again has its name and the numbers of its processes again.
    if pid == os.getpid():
        return True
    # On Windows this would end the process.
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:LONGEST_REASON]}".rstrip(": .")
