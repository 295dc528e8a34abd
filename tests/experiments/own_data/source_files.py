"""Files of arrays and of other kinds, and how they are read."""

from pathlib import Path

import numpy as np
import scipy.io.wavfile

from experiments.own_data.config import DataConfig
from experiments.own_data.sources import load_source

RNG = np.random.default_rng(0)
LENGTHS = np.array([3, 5, 2])
STEPS = RNG.normal(size=(10, 2))
PADDED = np.zeros((3, 6, 2))
for row, (begin, end) in zip(PADDED, [(0, 3), (3, 8), (8, 10)], strict=True):
    row[: end - begin] = STEPS[begin:end]
LABELS = np.array(["b", "a", "b"])


def write(path, content):
    """Writes an .npz, .npy, .wav or another file; returns its path as a text."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".wav" and not isinstance(content, bytes):
        scipy.io.wavfile.write(path, *content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return str(path)


def read(path, problem="classification", format="arrays", *, targets=True, **data):
    config = DataConfig(path=path, format=format, **data)
    return load_source(format).read(config, problem, targets=targets)


def inspect(path, format="arrays", **chosen):
    return load_source(format).inspect(path, chosen)


def raw(name, content):
    Path(name).write_bytes(content)
    return name
