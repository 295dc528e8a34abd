"""Checkpoints on disk: Orbax's CheckpointManager with digests and with errors for users."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from gru_jax import _checks
from gru_jax.training import host_tree
from gru_jax.training.errors import CheckpointError, CheckpointMismatchError, error_message
from gru_jax.training.progress import Progress
from gru_jax.training.state import TrainState

logger = logging.getLogger("gru_jax.training")

_DIGESTS = "digests.json"


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Directory and number of a run's checkpoints.

    Attributes:
        directory: directory of one run's checkpoints; made if it does not exist.
        max_to_keep: number of latest checkpoints to keep, in addition to the best one.

    Raises:
        TypeError: ``max_to_keep`` is not an integer.
        ValueError: ``max_to_keep`` is not positive.
    """

    directory: str | os.PathLike[str]
    max_to_keep: int = 3

    def __post_init__(self) -> None:
        _checks.positive_int("max_to_keep", self.max_to_keep)


class CheckpointStore:
    """The checkpoints of one run; a context manager that waits for a pending save at the end.

    Each checkpoint holds the arrays of a :class:`TrainState` by their paths, a record with the
    run's :class:`Progress` and a description of the tree, and the SHA-256 digests of the files of
    both. All arrays must be addressable by this process.

    Args:
        options: directory and number of checkpoints.
        read_only: whether nothing is written: the directory is not made, there is no
            :meth:`save`, and a corrupted checkpoint is an error instead of being moved away.

    Raises:
        CheckpointError: the directory cannot be made or written to, or is to be read and absent.
    """

    def __init__(self, options: CheckpointOptions, *, read_only: bool = False):
        self.directory = Path(options.directory).absolute()
        self._retention = _LatestAndBest(options.max_to_keep)
        self._pending_step: int | None = None
        self._read_only = read_only
        try:
            if read_only:
                # Where there is no directory, this raises the error.
                os.scandir(self.directory).close()
            else:
                self.directory.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.directory):
                    pass
                _remove_unfinished(self.directory)
            # Orbax warns of each option that read_only implies.
            logging.getLogger("absl").addFilter(_is_not_from_orbax)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    read_only=read_only,
                    preservation_policy=self._retention,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
                ),
            )
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint directory {self.directory} cannot be used: {error_message(error)}."
            ) from error
        finally:
            logging.getLogger("absl").removeFilter(_is_not_from_orbax)

    def __enter__(self) -> "CheckpointStore":
        # Orbax logs a traceback of each error that is raised here as one message.
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._wait()
        except CheckpointError:
            # An earlier error takes precedence.
            if kind is None:
                raise
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()
            logging.getLogger("absl").removeFilter(_is_not_from_orbax)

    def latest(self) -> Path | None:
        """Waits for a pending save and returns the path of the latest checkpoint."""
        with contextlib.suppress(CheckpointError):
            self._wait()
        steps = self._manager.all_steps()
        return self._path(max(steps)) if steps else None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves in the background; the state may be donated once this returns.

        Raises:
            CheckpointError: this save cannot start, or the previous one has failed.
        """
        self._wait()
        self._pending_step = progress.step
        record = {
            "progress": dataclasses.asdict(progress),
            "description": host_tree.tree_spec(state),
        }
        arrays = host_tree.to_host(state)
        self._retention.best_step = progress.best_step
        try:
            self._check_space(sum(array.nbytes for array in arrays.values()))
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(
                    record=ocp.args.JsonSave(record),
                    arrays=ocp.args.StandardSave(arrays),
                ),
                force=True,
            )
        except Exception as error:
            self._raise_save_error(error)

    def restore_latest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the latest intact checkpoint, or returns None; moves corrupted ones away.

        Raises:
            CheckpointError: as in :meth:`restore`.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored = self.restore(step, like)
            if restored is not None:
                return restored
        return None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the checkpoint of one step; warns and returns None if it is corrupted or absent.

        Raises:
            CheckpointMismatchError: the checkpoint's tree differs from ``like``.
            CheckpointError: it is intact but cannot be read, or corrupted and cannot be moved, as
                with ``read_only``.
        """
        if step not in self._manager.all_steps():
            logger.warning("There is no checkpoint %s.", self._path(step))
            return None
        corruption = _find_corruption(self._path(step))
        if corruption is not None and self._read_only:
            raise CheckpointError(f"The checkpoint {self._path(step)} is corrupted ({corruption}).")
        if corruption is not None:
            self._quarantine(step, corruption)
            return None
        record = self._read(step, record=ocp.args.JsonRestore())
        mismatch = host_tree.first_mismatch(record["description"], host_tree.tree_spec(like))
        if mismatch is not None:
            raise CheckpointMismatchError(
                f"The checkpoint {self._path(step)} belongs to another model or optimizer. "
                f"The first difference is {mismatch}."
            )
        arrays = self._read(step, arrays=ocp.args.StandardRestore())
        return host_tree.to_device(arrays, like), Progress(**record["progress"])

    def _check_space(self, needed: int) -> None:
        # Checked in advance, a full disk gives one message instead of one from each writer.
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed, and the disk has {free} left")

    def _read(self, step: int, **item: ocp.args.CheckpointArgs) -> dict[str, Any]:
        (name,) = item
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is intact, but cannot be read: "
                f"{error_message(error)}."
            ) from error

    def _write_digests(self) -> None:
        # All files are written, and Orbax is about to rename the directory to its final name.
        temporary = f"{self._pending_step}{ocp.path.atomicity_types.TMP_DIR_SUFFIX}"
        checkpoint = self.directory / temporary
        (checkpoint / _DIGESTS).write_text(json.dumps(_file_digests(checkpoint), indent=1))

    def _quarantine(self, step: int, corruption: str) -> None:
        quarantine = self.directory / "corrupted"
        try:
            quarantine.mkdir(exist_ok=True)
            target = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=quarantine))
            self._path(step).replace(target)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is corrupted ({corruption}), and cannot be "
                f"moved to {quarantine}: {error_message(error)}."
            ) from error
        self._manager.reload()
        logger.warning(
            "The checkpoint %s is corrupted (%s); it was moved to %s.",
            self._path(step),
            corruption,
            target,
        )

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._raise_save_error(error)
        self._pending_step = None

    def _raise_save_error(self, error: Exception) -> None:
        step, self._pending_step = self._pending_step, None
        self._manager.reload()
        others = [other for other in self._manager.all_steps() if other != step]
        earlier = (
            f"The latest one before it, {self._path(max(others))}, is intact."
            if others
            else "There is none before it."
        )
        raise CheckpointError(
            f"Saving the checkpoint of step {step} in {self.directory} failed: "
            f"{error_message(error)}. {earlier}"
        ) from error

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


@dataclasses.dataclass
class _LatestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    max_to_keep: int
    best_step: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        first = len(checkpoints) - self.max_to_keep
        return [
            index >= first or checkpoint.step == self.best_step
            for index, checkpoint in enumerate(checkpoints)
        ]


def _remove_unfinished(directory: Path) -> None:
    """Removes the temporary directories of saves that were killed or failed.

    After a save that failed in this process, its writers may still be adding or removing files.
    Orbax's own cleanup would raise an error there.
    """
    for unfinished in directory.glob(f"*{ocp.path.atomicity_types.TMP_DIR_SUFFIX}"):
        for pause in (0.01, 0.1, 1.0, None):
            try:
                shutil.rmtree(unfinished)
            except OSError:
                if pause is None and unfinished.exists():
                    raise
            if not unfinished.exists():
                break
            time.sleep(pause or 0)


def _find_corruption(checkpoint: Path) -> str | None:
    try:
        expected = dict(json.loads((checkpoint / _DIGESTS).read_text()))
        found = _file_digests(checkpoint)
    except (OSError, TypeError, ValueError, RecursionError) as error:
        return f"its digests cannot be checked: {error_message(error)}"
    for name, digest in expected.items():
        if name not in found:
            return f"its file {name} is missing"
        if found[name] != digest:
            return f"its file {name} was changed"
    return None


def _file_digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for item in ("arrays", "record"):
        for path in sorted((checkpoint / item).rglob("*")):
            if path.is_file():
                with open(path, "rb") as file:
                    name = path.relative_to(checkpoint).as_posix()
                    digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
