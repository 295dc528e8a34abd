"""Spectral features of recordings."""

import functools

import numpy as np
from scipy.signal.windows import hann

BANDS = 40
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.01
# Frames whose spectra are in memory at once.
BLOCK = 6000


def log_mel(samples: np.ndarray, rate: int) -> np.ndarray:
    """Returns the log power in 40 mel bands, (frames, 40), float64.

    Frames are 25 ms long, with a hop of 10 ms. A shorter recording is padded to one frame.

    Args:
        samples: (samples,), in [-1, 1].
        rate: samples per second.
    """
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    samples = np.pad(samples, (0, max(0, window - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    filters, weights = mel_filters(rate, window), hann(window, sym=False)
    blocks = []
    for begin in range(0, len(frames), BLOCK):
        spectrum = np.fft.rfft(frames[begin : begin + BLOCK] * weights, axis=1)
        power = np.square(np.abs(spectrum)) @ filters
        blocks.append(np.log(power + 1e-10))
    return np.concatenate(blocks)


@functools.lru_cache(maxsize=4)
def mel_filters(rate: int, window: int) -> np.ndarray:
    """Returns triangular filters evenly spaced in mel, (frequencies, 40) (O'Shaughnessy 1987)."""
    frequencies = np.fft.rfftfreq(window, 1 / rate)
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))
