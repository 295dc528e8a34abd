"""Checkpoints on disk: Orbax's v1 Checkpointer with digests and with errors for users."""

import contextlib
import dataclasses
import errno
import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from gru_jax import _checks
from gru_jax.training import _orbax, checkpoint_files, host_tree, processes
from gru_jax.training.errors import CheckpointError, CheckpointMismatchError, error_message
from gru_jax.training.progress import Progress
from gru_jax.training.state import TrainState

logger = logging.getLogger("gru_jax.training")


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Directory and number of a run's checkpoints.

    Attributes:
        directory: directory of one run's checkpoints; made if it does not exist. Directories in it
            whose names are numbers are taken for checkpoints. A URL of Google Cloud Storage,
            ``gs://BUCKET/PATH``, needs the extra ``gcs``.
        max_to_keep: number of latest checkpoints to keep, in addition to the best one.

    Raises:
        TypeError: ``max_to_keep`` is not an integer.
        ValueError: ``max_to_keep`` is not positive, or ``directory`` is another URL.
    """

    directory: str | os.PathLike[str]
    max_to_keep: int = 3

    def __post_init__(self) -> None:
        directory = os.fspath(self.directory)
        if checkpoint_files.is_remote(directory) and not directory.startswith("gs://"):
            raise ValueError(f"directory must be a path or a URL of gs://, got {directory}")
        _checks.positive_int("max_to_keep", self.max_to_keep)


class CheckpointStore:
    """The checkpoints of one run; a context manager that waits for a pending save at the end.

    Each checkpoint holds the arrays of a :class:`TrainState` by their paths, a record with the
    run's :class:`Progress` and a description of the tree, and the SHA-256 digests of the files of
    both. Of several processes each writes the shards on its own devices, all into one directory
    that they share, and each calls the same methods with the same arguments. An array may be
    restored with another sharding than it was saved with.

    Args:
        options: directory and number of checkpoints.
        read_only: whether nothing is written: the directory is not made, there is no
            :meth:`save`, and a corrupted checkpoint is an error instead of being moved away.

    Raises:
        CheckpointError: the directory cannot be made or written to, or is to be read and absent.
    """

    def __init__(self, options: CheckpointOptions, *, read_only: bool = False):
        expected = "a gru_jax.training.CheckpointOptions"
        _checks.instance("options", options, CheckpointOptions, expected)
        self._is_remote = checkpoint_files.is_remote(options.directory)
        self.directory: Any = (
            epath.Path(options.directory) if self._is_remote else Path(options.directory).absolute()
        )
        self._retention = _LatestAndBest(options.max_to_keep)
        self._pending_step: int | None = None
        self._checkpointer: ocp.training.Checkpointer | None = None
        # A function: Orbax copies its options deeply, a bound method's object too.
        self._context = _orbax.make_context(lambda: self._write_digests())
        if self._is_remote and importlib.util.find_spec("gcsfs") is None:
            raise CheckpointError(
                f"The checkpoint directory {self.directory} needs gcsfs, which is not installed: "
                "pip install 'gru-jax[gcs]'."
            )
        try:
            if read_only:
                self._check_readable()
            else:
                self._check_writable()
                if self._is_remote:
                    self._remove_incomplete()
                self._checkpointer = _orbax.Checkpointer(
                    str(self.directory),
                    context=self._context,
                    preservation_policy=self._retention,
                    # Of a bucket it would remove all directories but checkpoints.
                    cleanup_tmp_directories=not self._is_remote,
                )
        except Exception as error:
            # The client of a bucket has errors of its own.
            if not (self._is_remote or isinstance(error, OSError)):
                raise
            raise CheckpointError(
                f"The checkpoint directory {self.directory} cannot be used: {error_message(error)}."
            ) from error

    def _check_readable(self) -> None:
        if not self._is_remote:
            # Where there is no directory, this raises the error.
            os.scandir(self.directory).close()
        elif not self.directory.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _check_writable(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._is_remote:
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        elif processes.is_first():
            probe = self.directory / ".writable"
            probe.write_bytes(b"")
            probe.unlink()

    def _remove_incomplete(self) -> None:
        """Removes from a bucket what saves have left that were cut off.

        A directory of a step that holds anything else, such as a served model's version, would be
        taken for one of these, or a save would take its place.
        """
        foreign = []
        if processes.is_first():
            incomplete = [
                path for path in self._step_directories() if not checkpoint_files.is_committed(path)
            ]
            foreign = [path for path in incomplete if not checkpoint_files.is_of_a_save(path)]
            if not foreign:
                for path in incomplete:
                    path.rmtree()
        # The others go on once it is removed.
        (step,) = processes.of_first([int(foreign[0].name) if foreign else -1])
        if step >= 0:
            raise CheckpointError(f"its directory {int(step)} holds no checkpoint")

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
            if self._checkpointer is not None:
                with contextlib.suppress(Exception):
                    self._checkpointer.close()
            logging.getLogger("absl").removeFilter(_is_not_from_orbax)

    def latest(self) -> Path | None:
        """Waits for a pending save and returns the path of the latest checkpoint."""
        with contextlib.suppress(CheckpointError):
            self._wait()
        steps = self._steps()
        return self._path(max(steps)) if steps else None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves in the background; the state may be donated once this returns.

        Raises:
            CheckpointError: this save cannot start, or the previous one has failed.
        """
        assert self._checkpointer is not None
        self._wait()
        self._pending_step = progress.step
        record = {
            "progress": dataclasses.asdict(progress),
            "description": host_tree.tree_spec(state),
        }
        arrays = host_tree.named_arrays(state)
        self._retention.best_step = progress.best_step
        try:
            self._check_space(sum(array.nbytes for array in arrays.values()))
            self._checkpointer.save_checkpointables_async(
                progress.step, {"record": record, "arrays": arrays}, force=True
            )
        except Exception as error:
            self._raise_save_error(error)

    def restore_latest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the latest intact checkpoint, or returns None; moves corrupted ones away.

        Raises:
            CheckpointError: as in :meth:`restore`.
        """
        for step in sorted(self._steps(), reverse=True):
            restored = self.restore(step, like)
            if restored is not None:
                return restored
        return None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the checkpoint of one step; warns and returns None if it is corrupted or absent.

        Args:
            step: its number of steps.
            like: a state of the same structure, whose shardings the arrays get.

        Raises:
            CheckpointMismatchError: the checkpoint's tree differs from ``like``.
            CheckpointError: it is intact but cannot be read, or corrupted and cannot be moved, as
                with ``read_only``.
        """
        if step not in self._steps():
            self._warn("There is no checkpoint %s.", self._path(step))
            return None
        corruption = self._find_corruption(step)
        if corruption is not None and self._checkpointer is None:
            raise CheckpointError(f"The checkpoint {self._path(step)} is corrupted ({corruption}).")
        if corruption is not None:
            self._quarantine(step, corruption)
            return None
        record = self._read(step, "record", None)
        try:
            progress = Progress(**record["progress"])
            mismatch = host_tree.first_mismatch(record["description"], host_tree.tree_spec(like))
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is intact, but its record describes no run: "
                f"{error_message(error)}."
            ) from error
        if mismatch is not None:
            raise CheckpointMismatchError(
                f"The checkpoint {self._path(step)} belongs to another model or optimizer. "
                f"The first difference is {mismatch}."
            )
        # Arrays of these shapes, whatever the files say, take as much memory as the state at hand.
        abstract = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for name, array in host_tree.named_arrays(like).items()
        }
        arrays = self._read(step, "arrays", abstract)
        return host_tree.from_named_arrays(arrays, like), progress

    def _steps(self) -> list[int]:
        # A save to a bucket that was cut off leaves a directory of this name.
        return [
            int(path.name)
            for path in self._step_directories()
            if checkpoint_files.is_committed(path)
        ]

    def _step_directories(self) -> list[Any]:
        try:
            return [path for path in self.directory.iterdir() if path.name.isdecimal()]
        except FileNotFoundError:
            # An empty directory is none in a bucket.
            if self._is_remote:
                return []
            raise

    def _check_space(self, needed: int) -> None:
        if self._is_remote:
            return
        # Checked in advance, a full disk gives one message instead of one from each writer.
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed, and the disk has {free} left")

    def _read(self, step: int, name: str, abstract: Any) -> Any:
        try:
            with self._context:
                return ocp.load_checkpointables(str(self._path(step)), {name: abstract})[name]
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is intact, but cannot be read: "
                f"{error_message(error)}."
            ) from error

    def _write_digests(self) -> None:
        # All processes have written their files. Orbax is about to rename the directory to the
        # step's number, with which its name begins, or in a bucket to write a file that commits it.
        pattern = f"{self._pending_step}" if self._is_remote else f"{self._pending_step}.*"
        (checkpoint,) = self.directory.glob(pattern)
        checkpoint_files.write_digests(checkpoint)

    def _find_corruption(self, step: int) -> str | None:
        """Returns what is wrong with a checkpoint, for all processes as process 0 sees it."""
        path = self._path(step)
        corruption = checkpoint_files.find_corruption(path) if processes.is_first() else None
        (is_corrupted,) = processes.of_first([corruption is not None])
        return corruption or ("process 0 found it so" if is_corrupted else None)

    def _quarantine(self, step: int, corruption: str) -> None:
        assert self._checkpointer is not None
        quarantine = self.directory / "corrupted"
        try:
            if processes.is_first():
                quarantine.mkdir(exist_ok=True)
                target = quarantine / f"{step}-{secrets.token_hex(4)}"
                checkpoint_files.move(self._path(step), target)
                self._warn(
                    "The checkpoint %s is corrupted (%s); it was moved to %s.",
                    self._path(step),
                    corruption,
                    target,
                )
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {self._path(step)} is corrupted ({corruption}), and cannot be "
                f"moved to {quarantine}: {error_message(error)}."
            ) from error
        # The others go on once it is moved.
        processes.of_first([0.0])
        self._checkpointer.reload()

    def _warn(self, message: str, *arguments: object) -> None:
        if processes.is_first():
            logger.warning(message, *arguments)

    def _wait(self) -> None:
        try:
            if self._checkpointer is not None:
                self._checkpointer.wait()
        except Exception as error:
            self._raise_save_error(error)
        self._pending_step = None

    def _raise_save_error(self, error: Exception) -> None:
        assert self._checkpointer is not None
        step, self._pending_step = self._pending_step, None
        self._checkpointer.reload()
        others = [other for other in self._steps() if other != step]
        earlier = (
            f"The latest one before it, {self._path(max(others))}, is intact."
            if others
            else "There is none before it."
        )
        raise CheckpointError(
            f"Saving the checkpoint of step {step} in {self.directory} failed: "
            f"{error_message(error)}. {earlier}"
        ) from error

    def _path(self, step: int) -> Any:
        return self.directory / str(step)


@dataclasses.dataclass
class _LatestAndBest(ocp.training.preservation_policies.PreservationPolicy):
    max_to_keep: int
    best_step: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.training.CheckpointMetadata],
        *,
        context: ocp.training.preservation_policies.PreservationContext,
    ) -> Sequence[bool]:
        first = len(checkpoints) - self.max_to_keep
        return [
            index >= first or checkpoint.step == self.best_step
            for index, checkpoint in enumerate(checkpoints)
        ]


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
