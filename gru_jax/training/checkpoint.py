"""Checkpoints on disk: Orbax's CheckpointManager, with digests, and with errors for users."""

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
from gru_jax.training import host_tree as snapshot
from gru_jax.training.errors import CheckpointError, CheckpointMismatchError, reason
from gru_jax.training.progress import Progress
from gru_jax.training.state import TrainState

logger = logging.getLogger("gru_jax.training")

_DIGESTS = "digests.json"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and how many.

    Attributes:
        directory: made where it does not exist. One run has it for itself.
        keep: the newest this many are kept, and the best one beside them.

    Raises:
        TypeError: a ``keep`` that is no integer.
        ValueError: a ``keep`` that is not positive.
    """

    directory: str | os.PathLike[str]
    keep: int = 3

    def __post_init__(self) -> None:
        _checks.positive_int("keep", self.keep)


class CheckpointStore:
    """The open directory of a run's checkpoints; a context, which ends with no save pending.

    Each checkpoint holds the arrays of a :class:`TrainState` by their paths, a record with the
    run's :class:`Progress` and a description of the tree, and the SHA-256 digests of the files of
    both. All arrays must be addressable by this process.

    Raises:
        CheckpointError: the directory cannot be made or written to.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.directory = Path(checkpoints.directory).absolute()
        self._retention = _NewestAndBest(checkpoints.keep)
        self._unfinished: int | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
            _remove_unfinished(self.directory)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._retention,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
                ),
            )
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint directory {self.directory} cannot be used: {reason(error)}."
            ) from error

    def __enter__(self) -> "CheckpointStore":
        # Orbax logs each error, traceback and all, that is raised here as one message.
        logging.getLogger("absl").addFilter(_is_foreign)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._finish()
        except CheckpointError:
            # An error that is already on its way is the one to be told.
            if kind is None:
                raise
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()
            logging.getLogger("absl").removeFilter(_is_foreign)

    def newest(self) -> Path | None:
        """Returns the path of the newest checkpoint, having waited for a save under way."""
        with contextlib.suppress(CheckpointError):
            self._finish()
        steps = self._manager.all_steps()
        return self._path(max(steps)) if steps else None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves in the background; returns when the state may be donated.

        Raises:
            CheckpointError: this save cannot begin, or the one before it has failed.
        """
        self._finish()
        self._unfinished = progress.step
        record = {
            "progress": dataclasses.asdict(progress),
            "description": snapshot.describe(state),
        }
        arrays = snapshot.to_host(state)
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
            self._fail(error)

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Returns the newest undamaged checkpoint, or None; damaged ones are moved aside.

        Raises:
            CheckpointError: as :meth:`restore` does.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored = self.restore(step, like)
            if restored is not None:
                return restored
        return None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Returns the checkpoint of one step; None, and a warning, where it is damaged or lost.

        Raises:
            CheckpointMismatchError: the checkpoint's tree is not one like ``like``.
            CheckpointError: it is whole, but cannot be read, or is damaged and cannot be moved.
        """
        if step not in self._manager.all_steps():
            logger.warning("There is no checkpoint %s.", self._path(step))
            return None
        damage = _find_damage(self._path(step))
        if damage is not None:
            self._move_aside(step, damage)
            return None
        record = self._read(step, record=ocp.args.JsonRestore())
        difference = snapshot.first_difference(record["description"], snapshot.describe(like))
        if difference is not None:
            raise CheckpointMismatchError(
                f"The checkpoint {self._path(step)} belongs to another model or optimizer. "
                f"The first difference is {difference}."
            )
        arrays = self._read(step, arrays=ocp.args.StandardRestore())
        return snapshot.to_device(arrays, like), Progress(**record["progress"])

    def _check_space(self, needed: int) -> None:
        # Told beforehand, a full disk is one message; told by the writers, it is one from each.
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed, and the disk has {free} left")

    def _read(self, step: int, **item: ocp.args.CheckpointArgs) -> dict[str, Any]:
        (name,) = item
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is whole, but cannot be read: {reason(error)}."
            ) from error

    def _write_digests(self) -> None:
        # All is written, and the directory is about to be given its name.
        temporary = f"{self._unfinished}{ocp.path.atomicity_types.TMP_DIR_SUFFIX}"
        checkpoint = self.directory / temporary
        (checkpoint / _DIGESTS).write_text(json.dumps(_file_digests(checkpoint), indent=1))

    def _move_aside(self, step: int, damage: str) -> None:
        aside = self.directory / "damaged"
        try:
            aside.mkdir(exist_ok=True)
            target = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=aside))
            self._path(step).replace(target)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is damaged ({damage}), and cannot be moved "
                f"aside: {reason(error)}."
            ) from error
        self._manager.reload()
        logger.warning(
            "The checkpoint %s is damaged (%s); it was moved to %s.",
            self._path(step),
            damage,
            target,
        )

    def _finish(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._fail(error)
        self._unfinished = None

    def _fail(self, error: Exception) -> None:
        step, self._unfinished = self._unfinished, None
        self._manager.reload()
        whole = [other for other in self._manager.all_steps() if other != step]
        earlier = (
            f"The newest one before it, {self._path(max(whole))}, is whole."
            if whole
            else "There is none before it."
        )
        raise CheckpointError(
            f"Saving the checkpoint of step {step} in {self.directory} failed: "
            f"{reason(error)}. {earlier}"
        ) from error

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


@dataclasses.dataclass
class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    newest: int
    best_step: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        first = len(checkpoints) - self.newest
        return [
            index >= first or checkpoint.step == self.best_step
            for index, checkpoint in enumerate(checkpoints)
        ]


def _remove_unfinished(directory: Path) -> None:
    """Removes what saves left that were killed or failed.

    A save that failed in this process may have a part that is still being written, or removed by
    its own writer: what Orbax's own cleaning takes for an error.
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


def _find_damage(checkpoint: Path) -> str | None:
    try:
        expected = dict(json.loads((checkpoint / _DIGESTS).read_text()))
        found = _file_digests(checkpoint)
    except (OSError, TypeError, ValueError) as error:
        return f"its digests cannot be checked: {reason(error)}"
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


def _is_foreign(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
