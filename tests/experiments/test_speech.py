"""Laws of the spoken digits: splits, frames, and archives however they are packed."""

import io
import zipfile

import numpy as np
import pytest
import scipy.io.wavfile

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.tasks import speech
from experiments.tasks.speech import SPEAKERS, Recording


def wav(samples, rate=speech.RATE):
    file = io.BytesIO()
    scipy.io.wavfile.write(file, rate, samples)
    return file.getvalue()


def archive(members, folder="recordings/", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(folder + name, content)
    return file.getvalue()


@pytest.fixture(scope="module")
def recordings():
    samples = np.random.default_rng(0).normal(size=1000)
    return [
        Recording(digit, speaker, number, samples)
        for digit in range(10)
        for speaker in SPEAKERS
        for number in range(12)
    ]


@pytest.mark.parametrize("speaker", [None, "lucas"])
def test_each_recording_is_in_one_split(recordings, speaker):
    splits = speech.split_recordings(recordings, speaker, 20)
    sizes = {name: len(part.labels) for name, part in splits.items()}
    if speaker is None:
        assert sizes == {"train": 120, "validation": 300, "test": 300}
    else:
        assert sizes == {"train": 350, "validation": 250, "test": 120}
    for part in splits.values():
        np.testing.assert_array_equal(np.bincount(part.labels), sizes_of_digits(part))


def sizes_of_digits(part):
    return np.full(10, len(part.labels) // 10)


def test_frames_are_those_of_the_recording_and_then_silence():
    random = np.random.default_rng(0)
    short, long = (random.normal(size=size) for size in (900, 5000))
    part = speech.utterances([Recording(1, "theo", 0, s) for s in (short, long)], 30)
    # 25 ms every 10 ms.
    assert part.lengths.tolist() == [1 + (900 - 200) // 80, 30]
    np.testing.assert_array_equal(part.frames[0, part.lengths[0] :], 0)
    np.testing.assert_array_equal(part.frames[1], speech.normalized_log_mel(long)[:30])


def test_loudness_does_not_matter():
    samples = np.random.default_rng(0).normal(size=3000)
    np.testing.assert_allclose(
        speech.normalized_log_mel(samples), speech.normalized_log_mel(0.01 * samples), atol=1e-3
    )


def test_a_tone_sounds_in_its_band():
    """Between two noises of all bands, so that taking off the mean leaves it."""
    time = np.arange(speech.RATE) / speech.RATE
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)[1:-1]
    noise = np.random.default_rng(0).normal(size=len(time))
    for band in (5, 20, 35):
        tone = np.sin(2 * np.pi * centres[band] * time)
        frames = speech.normalized_log_mel(np.concatenate([noise, tone + 1e-3 * noise]))
        assert abs(int(frames[-20:].mean(axis=0).argmax()) - band) <= 1


def test_a_recording_of_nothing_is_finite():
    assert np.isfinite(speech.normalized_log_mel(np.zeros(50))).all()


def digest(content):
    return registry.SPOKEN_DIGITS.digest(io.BytesIO(content))


def test_the_hash_is_of_the_recordings_and_not_of_how_they_are_packed():
    members = {"0_theo_0.wav": b"one", "1_theo_0.wav": b"two", "README.md": b"three"}
    packed = digest(archive(members))
    others = {
        "other folder": archive(members, folder="elsewhere/"),
        "compressed": archive(members, compression=zipfile.ZIP_DEFLATED),
        "other order": archive(dict(reversed(members.items()))),
        "other text": archive({**members, "README.md": b"four"}),
    }
    assert {digest(content) for content in others.values()} == {packed}
    assert digest(archive({**members, "0_theo_0.wav": b"onE"})) != packed
    assert digest(archive({**members, "2_theo_0.wav": b""})) != packed


@pytest.mark.parametrize("cut", [0, 10, 100, -30])
def test_a_broken_archive_has_no_hash(cut):
    whole = archive({f"{digit}_theo_0.wav": bytes(200) for digit in range(10)})
    assert digest(whole[:cut]) == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x_theo_0.wav", wav(np.zeros(300, np.int16)), "is not a recording of a digit"),
        ("1_theo.wav", wav(np.zeros(300, np.int16)), "is not a recording of a digit"),
        ("1_theo_0.wav", b"RIFFxxxx", "is not a recording of a digit"),
        ("1_theo_0.wav", wav(np.zeros(300, np.int16))[:40], "is not a recording of a digit"),
        ("1_theo_0.wav", wav(np.zeros(300, np.int16), 16000), "at 16000 Hz in 1 .* at 8000 Hz"),
        ("1_theo_0.wav", wav(np.zeros((300, 3), np.int16)), "in 3 channels of int16, but"),
        ("1_theo_0.wav", wav(np.zeros(300, np.float32)), "of float32, but"),
    ],
)
def test_bad_recordings_are_named(tmp_path, name, content, message):
    path = tmp_path / "fsdd.zip"
    path.write_bytes(archive({name: content}))
    with pytest.raises(UserError, match=message) as error:
        speech.read_recordings(path)
    assert name in str(error.value)


def test_the_published_recordings(published_data):
    found = speech.read_recordings(registry.locate(registry.SPOKEN_DIGITS, published_data))
    assert {(r.digit, r.speaker, r.number) for r in found} == {
        (digit, speaker, number)
        for digit in range(10)
        for speaker in SPEAKERS
        for number in range(50)
    }
    assert max(np.abs(r.samples).max() for r in found) <= 1
