"""The database of a study: a file in the directory of a search, or one that workers share."""

import contextlib
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from experiments.errors import UserError
from experiments.runs.lock import LOCK

# A worker that gave no sign of life for twice as long is taken for dead.
HEARTBEAT_SECONDS = 30


@contextlib.contextmanager
def open_storage(folder: Path, url: str | None = None) -> Iterator[optuna.storages.RDBStorage]:
    """Opens the storage of the study in a directory, or the shared one at a URL.

    Raises:
        UserError: nothing can be opened at the URL.
    """
    if url is None:
        # Optuna leaves its connection to a file that is no database open.
        with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection:
            connection.execute("PRAGMA schema_version")
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    else:
        storage = _shared_storage(folder, url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _shared_storage(folder: Path, url: str) -> optuna.storages.RDBStorage:
    """Opens a storage whose trials are taken up by another worker if theirs is dead."""

    def take_up(study: optuna.Study, trial: FrozenTrial) -> None:
        # The dead worker may have run on another host, where its lock cannot be looked at.
        (folder / directory(trial) / LOCK).unlink(missing_ok=True)
        enqueue_again(study, trial)

    shown = url
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        with hide_experimental_warnings():
            return optuna.storages.RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=take_up,
            )
    except (ArgumentError, ValueError):
        raise UserError(
            f"--storage is {url!r}, but should be a URL of SQLAlchemy, such as "
            "sqlite:////shared/study.db or postgresql://user@host/database."
        ) from None
    except (ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"--storage {shown} cannot be opened: {reason}.") from None


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueues an interrupted trial, which is resumed from its checkpoints."""
    study.enqueue_trial(
        trial.system_attrs.get("fixed_params", trial.params),
        user_attrs={"directory": directory(trial), **trial.user_attrs},
    )


def directory(trial: Any) -> str:
    """Returns the name of a trial's run directory."""
    return trial.user_attrs.get("directory", f"trial-{trial.number}")


@contextlib.contextmanager
def heartbeats(study: optuna.Study, trial: optuna.Trial, *, is_shared: bool) -> Iterator[None]:
    """Tells other workers that this one is alive, as Optuna itself does in `Study.optimize`."""
    if not is_shared:
        yield
        return
    storage: Any = study._storage
    ended = threading.Event()

    def beat() -> None:
        while True:
            storage.record_heartbeat(trial._trial_id)
            if ended.wait(HEARTBEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def hide_experimental_warnings() -> Iterator[None]:
    """Hides that Optuna's support of several workers is experimental, and meant for `optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield
