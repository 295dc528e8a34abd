"""Files of one's own, written by tests: what they hold is not in the repository."""

from pathlib import Path

import numpy as np
import scipy.io.wavfile

RATE = 8000
TONES = {"low": 400.0, "high": 1600.0}


def write_sounds(folder: Path, number: int, seed: int = 0) -> None:
    """Writes recordings of two tones; the class is which comes first, so that order matters."""
    rng = np.random.default_rng(seed)
    for order in (("low", "high"), ("high", "low")):
        path = folder / f"{order[0]} first"
        path.mkdir(parents=True)
        for index in range(number):
            parts = [np.zeros(rng.integers(100, 800))]
            for name in order:
                time = np.arange(rng.integers(600, 1000)) / RATE
                frequency = TONES[name] * rng.uniform(0.9, 1.1)
                parts += [0.3 * np.sin(2 * np.pi * frequency * time), np.zeros(400)]
            samples = np.concatenate(parts)
            samples = samples + 0.01 * rng.normal(size=samples.shape)
            scipy.io.wavfile.write(
                path / f"{index:03}.wav", RATE, (samples * 2**15).astype(np.int16)
            )


def write_labelled_steps(path: Path, number: int, seed: int = 0) -> None:
    """Writes sequences whose steps are labelled by the sign of the sum of the last six numbers."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 50, number)
    inputs = [rng.normal(size=(length, 2)) for length in lengths]
    sums = [np.convolve(values[:, 0], np.ones(6))[: len(values)] for values in inputs]
    labels = np.where(np.concatenate(sums) > 0, "up", "down")
    np.savez(path, x=np.concatenate(inputs), lengths=lengths, y=labels)
