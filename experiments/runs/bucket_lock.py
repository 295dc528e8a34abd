"""Lock of a run in a bucket: an object that names its holder and that only one process can make."""

import contextlib
import json
import os
import socket
import sys
from typing import Any

from experiments.runs.lock import LOCK, LONGEST, HeldError, describe, this_process


def take(client: Any, url: str) -> None:
    """Takes the lock of the run at a URL.

    The object of a process that was killed stays. If it names this host and a process that has
    ended, the lock is taken over.

    Raises:
        HeldError: another process holds the run, or one that was killed on another host.
    """
    name = f"{url.removeprefix('gs://')}/{LOCK}"
    holder = _read_holder(client, name)
    if holder is not None:
        if not _has_ended(holder):
            raise HeldError(
                f"{url} is in use by {describe(holder)}, or was when that process was killed. "
                "Wait until it ends, or give another URL. If it does not run any more, remove the "
                f"object {url}/{LOCK}."
            )
        print(
            f"Took over the lock of {url} from {describe(holder)}, which was killed.",
            file=sys.stderr,
        )
        client.rm_file(name)
    try:
        client.pipe_file(name, json.dumps(this_process()).encode(), mode="create")
    except FileExistsError:
        raise HeldError(
            f"{url} is in use by {describe(_read_holder(client, name) or {})}. "
            "Wait until it ends, or give another URL."
        ) from None


def release(client: Any, url: str) -> None:
    """Releases the lock that this process holds; where the bucket is out of reach, it stays."""
    with contextlib.suppress(Exception):
        client.rm_file(f"{url.removeprefix('gs://')}/{LOCK}")


def _read_holder(client: Any, name: str) -> dict[str, Any] | None:
    """Returns the content of the object; empty if it cannot be read, None if there is none."""
    try:
        holder = json.loads(client.cat_file(name, start=0, end=LONGEST))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a process is known to have ended."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return False
    # A container that is started again has the same name and the same numbers of processes.
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
