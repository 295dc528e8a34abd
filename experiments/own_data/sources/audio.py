"""Recordings: a folder of .wav or .flac files, whose steps are log-mel frames of 10 ms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile

from experiments.datasets.log_mel import BANDS, log_mel
from experiments.errors import UserError
from experiments.extras import install_hint
from experiments.own_data.arrays.folders import folder_dataset, propose_folder
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.folders import labelled_files
from experiments.own_data.sources import Proposal

SUFFIXES = (".wav", ".flac")
SLOWEST = 1000
"""Samples per second, at least."""
MAX_HOURS = 20
# Full scale of the integers of a .wav file.
FULL_SCALE = {"int16": 2.0**15, "int32": 2.0**31, "uint8": 2.0**7}


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    files = labelled_files(path, SUFFIXES, list(chosen.get("data.target", [])), targets=True)
    rate = read_samples(files[0].path)[1]
    proposal = propose_folder(path, chosen, files)
    what = f"{len(files):,} recordings, the first at {rate} Hz; a step is 10 ms"
    return Proposal(
        proposal.problem,
        proposal.data,
        proposal.settings,
        {**proposal.reasons, "data.path": what},
    )


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    if problem not in ("classification", "regression"):
        raise UserError(
            f"problem is {problem}, but recordings are for classification or regression."
        )
    files = labelled_files(config.path, SUFFIXES, config.target, targets=targets)
    first_rate, seconds, sequences = None, 0.0, []
    for file in files:
        samples, rate = read_samples(file.path)
        first_rate = first_rate or rate
        if rate != first_rate:
            raise UserError(
                f"{file.path} has {rate} samples per second, but {files[0].path} has "
                f"{first_rate}. Convert all files to one rate."
            )
        seconds += len(samples) / rate
        if seconds > MAX_HOURS * 3600:
            raise UserError(
                f"The recordings in {config.path} are longer than {MAX_HOURS} hours, which do not "
                "fit memory. A function can return parts of them: data.format is function then."
            )
        sequences.append(log_mel(samples, rate).astype(np.float32))
    # The rate is part of the name: a model does not fit features of another one.
    names = [f"mel {band} at {first_rate} Hz" for band in range(BANDS)]
    note = f"They take {seconds / 60:.1f} minutes at {first_rate} Hz; a step is 10 ms of 40 bands."
    return folder_dataset(files, sequences, names, config, problem, targets=targets, notes=(note,))


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """Returns the samples of a file, (samples,) float32, the mean of its channels, and the rate.

    Raises:
        UserError: it is not a recording, or is empty.
    """
    try:
        samples, rate = _read(path)
    except UserError:
        raise
    # Both readers raise errors of many types for a corrupted file.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} is not a recording that can be read: {first}.") from None
    if rate < SLOWEST:
        raise UserError(f"{path} has {rate} samples per second, but should have {SLOWEST} or more.")
    if not len(samples):
        raise UserError(f"{path} has no samples.")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} has samples that are not finite.")
    return samples, rate


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except (ImportError, OSError):
        # OSError: without the library libsndfile.
        return _read_wav(path)
    with soundfile.SoundFile(path) as file:
        if file.frames > MAX_HOURS * 3600 * file.samplerate:
            raise UserError(f"{path} is longer than {MAX_HOURS} hours.")
        blocks = [
            block.mean(axis=1, dtype=np.float32)
            for block in file.blocks(blocksize=2**20, dtype="float32", always_2d=True)
        ]
        return np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate


def _read_wav(path: Path) -> tuple[np.ndarray, int]:
    if path.suffix.lower() != ".wav":
        raise UserError(f"{path} needs soundfile, which is not installed. {install_hint('data')}")
    rate, samples = scipy.io.wavfile.read(path)
    kind = str(samples.dtype)
    if kind in FULL_SCALE:
        samples = (samples.astype(np.float32) - (128 if kind == "uint8" else 0)) / FULL_SCALE[kind]
    elif samples.dtype.kind != "f":
        raise UserError(f"{path} has samples of {kind}, but should have {', '.join(FULL_SCALE)}.")
    samples = samples.astype(np.float32)
    return samples if samples.ndim == 1 else samples.mean(axis=1), int(rate)
