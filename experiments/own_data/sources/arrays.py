"""Arrays: an .npz file, an .npy file, or a folder of .npy files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.own_data.arrays.files import INPUTS, read_arrays
from experiments.own_data.arrays.folders import folder_dataset, propose_folder
from experiments.own_data.arrays.guesses import propose
from experiments.own_data.arrays.sequences import as_numbers, dataset_of, feature_names
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.folders import labelled_files
from experiments.own_data.sources import Proposal


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    if Path(path).is_dir():
        return propose_folder(path, chosen, labelled_files(path, (".npy",), [], targets=True))
    return propose(path, chosen, read_arrays(Path(path)))


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    path = Path(config.path)
    if not path.is_dir():
        return dataset_of(read_arrays(path), config, problem, targets=targets)
    files = labelled_files(config.path, (".npy",), config.target, targets=targets)
    sequences = []
    for file in files:
        values = as_numbers(read_arrays(file.path)[INPUTS], str(file.path))
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2:
            raise UserError(f"{file.path} has the shape {values.shape}, but should be (T, D).")
        if sequences and values.shape[1] != sequences[0].shape[1]:
            raise UserError(
                f"{file.path} has {values.shape[1]} features, but {files[0].path} has "
                f"{sequences[0].shape[1]}."
            )
        sequences.append(values)
    names = feature_names(INPUTS, sequences[0].shape[1])
    return folder_dataset(files, sequences, names, config, problem, targets=targets)
