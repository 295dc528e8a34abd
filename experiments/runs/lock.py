"""Advisory lock of a run directory: only one process at a time writes to it."""

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.errors import UserError

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# The file is a line of about 100 bytes.
LONGEST = 1000


class HeldError(UserError):
    """Another process holds the directory, or may hold it."""


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Locks a directory against other processes; makes it if it does not exist.

    The lock is an operating-system lock (`flock`) on a file that names its holder. The lock ends
    with its process, but the file of a killed process stays. If the file names this host, the lock
    is taken over. If it names another host, that process may still be running, because some
    network file systems do not share locks between hosts.

    At the end, directories that were made here are removed if they are empty. Nothing is locked on
    Windows, and where the file system has no locks (with a warning).

    Raises:
        HeldError: another process holds the directory, or one on another host may hold it.
        UserError: the directory cannot be written.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    lock = path / LOCK
    descriptor = None
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = _lock(lock)
            if descriptor is not None:
                _write_holder(descriptor)
        except OSError as error:
            raise UserError(
                f"The run directory {path} cannot be written: {error.strerror}."
            ) from None
        yield
    finally:
        if descriptor is not None:
            # The file is removed while it is locked: afterwards it could be another process's.
            with contextlib.suppress(OSError):
                lock.unlink()
            os.close(descriptor)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(lock: Path) -> int | None:
    """Returns the descriptor of the locked file, or None where nothing can be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            stack.callback(os.close, descriptor)
            holder = _read_holder(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HeldError(
                    f"{lock.parent} is in use by {describe(holder)}. "
                    "Wait until it ends, or give another directory."
                ) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                print(
                    f"The file system of {lock.parent} has no locks: "
                    "start no second process on this directory.",
                    file=sys.stderr,
                )
                return None
            # The previous holder may have removed the file after it was opened here.
            if os.path.lexists(lock) and os.path.samestat(os.fstat(descriptor), lock.lstat()):
                _check_host(_read_holder(descriptor), lock)
                stack.pop_all()
                return descriptor


def _check_host(holder: dict[str, Any], lock: Path) -> None:
    """Checks whether the holder named by a file that no process locks is known to have ended.

    Raises:
        HeldError: it ran on another host.
    """
    if not holder:
        return
    if holder.get("host") != socket.gethostname():
        raise HeldError(
            f"{lock.parent} is in use by {describe(holder)}, or was when that process was "
            f"killed. If it does not run any more, remove the file {lock}."
        )
    print(
        f"Took over the lock of {lock.parent} from {describe(holder)}, which was killed.",
        file=sys.stderr,
    )


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Returns the content of the file; empty if it has none, or none that can be read."""
    try:
        holder = json.loads(os.pread(descriptor, LONGEST, 0))
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(this_process()).encode(), 0)


def this_process() -> dict[str, Any]:
    """Returns what a lock says of this process."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe(holder: dict[str, Any]) -> str:
    """Returns what a lock says of its process, as messages name it."""
    if not holder:
        return "another process"
    return (
        f"process {holder.get('pid')} on the host {holder.get('host')}, since {holder.get('since')}"
    )
