"""Adversarial files are rejected by an error that names them; other bad files are, or they load."""

import itertools
import os
import time
from pathlib import Path

import pytest

from experiments.interop.bad_files.formats import FORMATS, Format
from experiments.interop.bad_files.fuzz import Outcome, corrupt, fuzz, within_bounds

FILES = int(os.environ.get("GRU_JAX_CORRUPTED_FILES", "100"))
"""Number of corrupted files of each format; `experiments interop fuzz` reads thousands."""

CONSTRUCTED = 20
QUICK = ("own_safetensors", "torch_pt")


def make(name: str, folder: Path) -> Format:
    if name == "onnx_model":
        pytest.importorskip("onnx", reason="onnx is not installed")
    return FORMATS[name](folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_bad_files_are_rejected_or_load_within_the_bounds(name, tmp_path):
    file_format = make(name, tmp_path)
    before = sorted(tmp_path.iterdir())
    files = itertools.chain(
        file_format.adversarial.values(),
        file_format.constructed(CONSTRUCTED, 0),
        file_format.corrupted(FILES),
    )
    outcomes = list(file_format.fuzz(files))
    assert len(outcomes) == len(file_format.adversarial) + CONSTRUCTED + FILES
    results = dict(zip(file_format.adversarial, (each.result for each in outcomes), strict=False))
    assert results == dict.fromkeys(file_format.adversarial, "rejected")
    assert not [outcome for outcome in outcomes if not outcome.is_expected]
    # No program ran, and nothing was written.
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FORMATS],
)
def test_constructed_files_are_a_function_of_the_seed(name, tmp_path, monkeypatch):
    constructed = make(name, tmp_path).constructed
    files = list(constructed(10, 0))
    # Archives can hold the time at which they were made.
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert files == list(constructed(10, 0))
    assert len(set(files)) > 5
    assert files != list(constructed(10, 1))


def test_corruption_is_a_function_of_the_seed():
    data = bytes(range(256))
    assert list(corrupt(data, 30)) == list(corrupt(data, 30))
    assert list(corrupt(data, 30)) != list(corrupt(data, 30, seed=1))
    assert all(file != data for file in corrupt(data, 30))


@pytest.mark.slow
@pytest.mark.parametrize(
    "programs",
    [
        {
            "raise FileError(f'{path}: no')": "rejected",
            "raise FileError('no')": "does not name the file: no",
            "raise RuntimeError('no')": "RuntimeError: no",
            "bytearray(1 << 33)": "MemoryError: ",
            "import os; os.abort()": "exit code -6",
            "raise FileError(f'{path}: no more')": "rejected",
        },
        {
            "import time; time.sleep(60)": "Timeout",
            "pass": "loaded",
            "x = bytearray(1 << 27)": "loaded 22 bytes with",
        },
    ],
)
def test_fuzzing_reports_what_went_wrong(programs, tmp_path, monkeypatch):
    """A vague error, excessive memory, a crash and a hang are told apart; the next file is read."""
    (tmp_path / "reader.py").write_text(
        "from gru_jax.interop.files import FileError\n"
        "def load(path):\n    exec(path.read_text(), {'path': path, 'FileError': FileError})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcomes = list(fuzz("reader", ".bin", b"", map(str.encode, programs), timeout=3))
    for outcome, expected in zip(outcomes, programs.values(), strict=True):
        assert expected in outcome.result


@pytest.mark.parametrize(
    ("seconds", "memory", "expected"),
    [(5.9, 92 << 20, True), (6.1, 0, False), (0, 93 << 20, False)],
)
def test_what_exceeds_the_bounds_is_no_expected_outcome(seconds, memory, expected):
    outcome = within_bounds(Outcome("loaded", seconds, memory), 10_000_000)
    assert outcome.is_expected is expected
