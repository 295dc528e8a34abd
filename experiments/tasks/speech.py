"""Spoken digits: classification of recordings of any length from log-mel frames."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.io.wavfile

from experiments.batches import shuffled_batches
from experiments.classifiers import (
    METRIC_LABELS,
    Examples,
    baselines,
    make_evaluate,
    plot_confusion,
)
from experiments.datasets import registry
from experiments.datasets.log_mel import BANDS, log_mel
from experiments.errors import UserError
from experiments.export_spec import PrePost, make_export_spec
from experiments.models.recurrent import build_network
from experiments.task import Task
from experiments.tasks.configs import SpeechConfig as Config
from experiments.typing import Array, Params

CLASSES = 10
RATE = 8000
TEST_NUMBERS, VALIDATION_NUMBERS = range(5), range(5, 10)
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


class Utterances(NamedTuple):
    """Recordings padded to one length: frames (N, T, 40), lengths (N,) in frames, labels (N,)."""

    frames: Array
    lengths: Array
    labels: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to the recordings in `data_dir`.

    Raises:
        UserError: the file is absent or corrupted.
    """
    path = registry.locate(registry.DATA_SETS["spoken-digits"].file, data_dir)
    splits = split_recordings(read_recordings(path), config.held_out_speaker, config.longest)
    train, test = splits["train"], splits["test"]
    network = build_network(config.model, BANDS, CLASSES, readout="last step", seed=config.seed)
    batches = shuffled_batches(config.seed, len(train.labels), config.training.batch_size)

    def batch_at(step: int) -> Utterances:
        chosen = batches(step)
        return Utterances(*(array[chosen] for array in train))

    def logits_of(params: Params, batch: Utterances, key: jax.Array | None = None) -> jax.Array:
        return network.apply(params, batch.frames, lengths=batch.lengths, key=key)

    def loss(
        params: Params, batch: Utterances, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if key is not None:
            noise_key, key = jax.random.split(key)
            noise = config.noise * jax.random.normal(noise_key, batch.frames.shape)
            batch = batch._replace(frames=batch.frames + noise)
        logits = logits_of(params, batch, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return losses.mean(), {"accuracy": jnp.mean(logits.argmax(-1) == batch.labels)}

    def plot(params: Params, directory: Path) -> None:
        predicted = np.asarray(jax.jit(logits_of)(params, test).argmax(-1))
        speaker = config.held_out_speaker or "all speakers"
        plot_confusion(test.labels, predicted, f"Spoken digits of {speaker}", directory)

    return Task(
        params=network.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=make_evaluate(loss, splits),
        metric_labels=METRIC_LABELS,
        loss_metric="cross_entropy",
        monitor="cross_entropy",
        baselines=lambda: baselines(*map(summaries, splits.values())),
        plot=plot,
        export_spec=make_export_spec(
            network, PrePost(), ("batch", "time", BANDS), ("batch", CLASSES), lengths=True
        ),
    )


class Recording(NamedTuple):
    """A recording: digit, speaker, number, and samples in [-1, 1)."""

    digit: int
    speaker: str
    number: int
    samples: np.ndarray


def read_recordings(path: Path) -> list[Recording]:
    """Reads the recordings of an archive, sorted by name.

    Raises:
        UserError: a recording that contradicts its name or the data set's description.
    """
    found = []
    for name, content in sorted(registry.read_members(path, ".wav").items()):
        try:
            digit, speaker, number = name.removesuffix(".wav").split("_")
            rate, samples = scipy.io.wavfile.read(io.BytesIO(content))
            found.append(Recording(int(digit), speaker, int(number), samples / 2.0**15))
        # SciPy's reader raises errors of many types for a corrupted file.
        except Exception as error:
            raise UserError(f"{path}: {name} is not a recording of a digit: {error}.") from None
        channels = math.prod(samples.shape[1:])
        if (rate, channels, samples.dtype) != (RATE, 1, np.int16):
            raise UserError(
                f"{path}: {name} is sampled at {rate} Hz in {channels} channels of "
                f"{samples.dtype}, but should be at {RATE} Hz in 1 channel of int16."
            )
    return found


def split_recordings(
    recordings: list[Recording], held_out_speaker: str | None, longest: int
) -> dict[str, Utterances]:
    """Splits recordings into train, validation and test.

    The official test split is recordings 0 to 4 of each digit and speaker; the validation split is
    recordings 5 to 9. With a held-out speaker, the test split is all recordings of that speaker,
    and the validation split is recordings 0 to 4 of the others.
    """

    def split_of(recording: Recording) -> str:
        if held_out_speaker is None:
            test = recording.number in TEST_NUMBERS
            validation = recording.number in VALIDATION_NUMBERS
        else:
            test = recording.speaker == held_out_speaker
            validation = recording.number in TEST_NUMBERS
        return "test" if test else "validation" if validation else "train"

    splits: dict[str, list[Recording]] = {"train": [], "validation": [], "test": []}
    for recording in recordings:
        splits[split_of(recording)].append(recording)
    return {name: utterances(of_split, longest) for name, of_split in splits.items()}


def utterances(recordings: list[Recording], longest: int) -> Utterances:
    """Returns the log-mel frames of recordings, truncated or zero-padded to `longest`."""
    frames = np.zeros((len(recordings), longest, BANDS), np.float32)
    lengths = np.zeros(len(recordings), np.int32)
    for index, recording in enumerate(recordings):
        features = normalized_log_mel(recording.samples)[:longest]
        frames[index, : len(features)] = features
        lengths[index] = len(features)
    return Utterances(frames, lengths, np.array([r.digit for r in recordings], np.int32))


def normalized_log_mel(samples: np.ndarray) -> np.ndarray:
    """Returns the log power in 40 mel bands, (frames, 40), float32.

    Each band's mean over the recording is subtracted, which removes most of microphone and voice;
    the result is scaled to a standard deviation of 1.
    """
    log_power = log_mel(samples, RATE)
    log_power -= log_power.mean(axis=0)
    return (log_power / (log_power.std() + 1e-6)).astype(np.float32)


def summaries(split: Utterances) -> Examples:
    """Returns each band's mean over each third of a recording, (N, 120), with the labels."""
    features = np.stack(
        [
            np.concatenate([third.mean(axis=0) for third in np.array_split(frames[:length], 3)])
            for frames, length in zip(np.asarray(split.frames), split.lengths, strict=True)
        ]
    )
    return Examples(features, split.labels)
