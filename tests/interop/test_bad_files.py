"""Adversarial files are rejected by an error that names them; corrupted ones are, or they load."""

import os
from pathlib import Path

import pytest

from experiments.interop.bad_files.formats import FORMATS, SLOW, Format
from experiments.interop.bad_files.fuzz import corrupt, fuzz

# One format is checked always: the others differ in their parsers, not in the harness.
every_format = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "ours" else pytest.mark.slow) for name in FORMATS],
)

FILES = int(os.environ.get("GRU_JAX_CORRUPTED_FILES", "300"))
"""Number of corrupted files of each format; `python -m experiments interop` reads thousands."""

# Slow formats need a process for each file.
COUNTS = {name: FILES // 40 + 1 if name in SLOW else FILES for name in FORMATS}


def make(name: str, folder: Path) -> Format:
    if name == "onnx_model":
        pytest.importorskip("onnx", reason="onnx is not installed")
    return FORMATS[name](folder)


@every_format
def test_adversarial_files_are_rejected_and_corrupted_ones_are_too_or_load(name, tmp_path):
    file_format = make(name, tmp_path)
    before = sorted(tmp_path.iterdir())
    found = file_format.fuzz(
        [*file_format.adversarial.values(), *file_format.corrupted(COUNTS[name])]
    )
    outcomes = dict(zip(file_format.adversarial, found.outcomes, strict=False))
    assert outcomes == dict.fromkeys(file_format.adversarial, "rejected")
    assert not found.unexpected
    assert found.memory < 1 << 28
    # No program ran, and nothing was written.
    assert sorted(tmp_path.iterdir()) == before


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
        },
        {"pass": "loaded", "import time; time.sleep(60)": "Timeout"},
    ],
)
def test_fuzzing_reports_what_went_wrong(programs, tmp_path, monkeypatch):
    """A vague error, excessive memory, a crash and a hang are distinguished from a rejection."""
    (tmp_path / "reader.py").write_text(
        "from gru_jax.interop.files import FileError\n"
        "def load(path):\n    exec(path.read_text(), {'path': path, 'FileError': FileError})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = fuzz("reader", ".bin", b"", [each.encode() for each in programs], timeout=3)
    for outcome, expected in zip(found.outcomes, programs.values(), strict=True):
        assert expected in outcome
