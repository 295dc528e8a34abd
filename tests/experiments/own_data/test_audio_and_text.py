"""Recordings and texts: what is read, and one message for each wrong file."""

import gzip

import numpy as np
import pytest
import scipy.io.wavfile

from experiments.errors import UserError
from experiments.own_data.sources import audio
from tests.experiments.own_data.source_files import (
    inspect,
    raw,
    read,
    write,
)

pytestmark = pytest.mark.usefixtures("workplace")


def tone(seconds=0.2, rate=8000, dtype=np.int16, channels=1):
    wave = 0.5 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 440 / rate)
    scaled = {
        np.int16: wave * 2**15,
        np.int32: wave * 2**31,
        np.float32: wave,
        np.uint8: wave * 128 + 128,
    }
    samples = scaled[dtype].astype(dtype)
    return rate, samples if channels == 1 else np.stack([samples] * channels, axis=1)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.uint8])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_of_all_kinds_are_the_same(dtype, channels, workplace):
    path = workplace / "a.wav"
    scipy.io.wavfile.write(path, *tone(dtype=dtype, channels=channels))
    for reader in (audio.read_samples, audio._read_wav):
        samples, rate = reader(path)
        assert rate == 8000
        np.testing.assert_allclose(samples, tone(dtype=np.float32)[1], atol=0.02)


def test_recordings():
    for label in ("low", "high"):
        write(f"sounds/{label}/1.wav", tone())
        write(f"sounds/{label}/2.WAV".replace("WAV", "wav"), tone(0.1))
    dataset = read("sounds", format="audio")
    assert dataset.target.classes == ("high", "low")
    assert {values.shape[1] for values in dataset.inputs} == {40}
    # 25 ms every 10 ms.
    assert [len(values) for values in dataset.inputs] == [18, 8, 18, 8]
    alone = read("sounds/low/1.wav", format="audio", targets=False)
    np.testing.assert_array_equal(alone.inputs[0], dataset.inputs[2])


def sounds(first, second=None):
    write("sounds/a/1.wav", first)
    write("sounds/b/2.wav", tone() if second is None else second)
    return "sounds"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sounds(tone(), tone(rate=16000)), "16000 samples per second, but .* has 8000"),
        (lambda: sounds(b"some text"), "1.wav is not a recording that can be read"),
        (lambda: sounds(b""), "1.wav is not a recording that can be read"),
        (lambda: sounds((8000, np.zeros(0, np.int16))), "1.wav has no samples"),
        (lambda: sounds((8000, np.full(9000, np.nan, np.float32))), "samples that are not finite"),
        (lambda: sounds(tone(rate=400)), "400 samples per second, but should have 1000"),
        (lambda: write("sounds/a/notes.txt", "x") and "sounds", "holds no file .wav or .flac"),
        (lambda: write("sounds/1.wav", tone()) and "sounds", "nothing is said of 1.wav"),
        (lambda: write("sounds/a/1.wav", tone()) and "sounds", "is a everywhere"),
    ],
)
def test_wrong_recordings(make, message):
    with pytest.raises(UserError, match=message):
        read(make(), format="audio")


def test_recordings_have_no_labels_of_steps():
    with pytest.raises(UserError, match="recordings are for classification or regression"):
        read(sounds(tone()), "labelling", format="audio")


def test_texts():
    write("texts/b.txt", "été\r\n")
    write("texts/a.txt", "tea")
    dataset = read("texts", "next-token", "text")
    assert dataset.names == ("a.txt", "b.txt")
    characters = np.array(dataset.features[0].categories)
    assert "".join(characters[dataset.inputs[1][:, 0].astype(int)]) == "été\n"
    path = raw("c.txt.gz", gzip.compress(b"tea"))
    assert len(read(path, "next-token", "text").inputs[0]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\nba\xffd", "line 2 is not UTF-8: the byte 0xff"),
        (b"  \n ", "has no text"),
        (b"a\0b", "has zero bytes"),
    ],
)
def test_wrong_texts(content, message):
    with pytest.raises(UserError, match=message):
        read(raw("a.txt", content), "next-token", "text")


def test_texts_are_for_the_next_token():
    with pytest.raises(UserError, match="its problem is next-token"):
        read(raw("a.txt", b"text"), "classification", "text")
    with pytest.raises(UserError, match="has 4 characters, but should have 100"):
        inspect("a.txt", "text")
