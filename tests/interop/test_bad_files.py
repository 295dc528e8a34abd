"""Damaged and hostile files are refused by an error that names them, or load; nothing else."""

import os
from pathlib import Path

import pytest

from experiments.interop.bad_files.formats import FORMATS, SLOW, Format
from experiments.interop.bad_files.fuzz import damaged, survey

# One format is checked always: the others differ in their parsers, not in the harness.
every_format = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "ours" else pytest.mark.slow) for name in FORMATS],
)

FILES = int(os.environ.get("GRU_JAX_DAMAGED_FILES", "300"))
"""How many damaged files of each format; thousands are for `python -m experiments interop`."""

# Those that are slow have a process of their own for each file.
COUNTS = {name: FILES // 40 + 1 if name in SLOW else FILES for name in FORMATS}


def make(name: str, folder: Path) -> Format:
    for needs, module in (("torch_pt", "torch"), ("onnx_model", "onnx")):
        if name == needs:
            pytest.importorskip(module, reason=f"{module} is not installed")
    return FORMATS[name](folder)


@every_format
def test_hostile_files_are_refused_and_damaged_ones_too_or_they_load(name, tmp_path):
    made = make(name, tmp_path)
    before = sorted(tmp_path.iterdir())
    found = made.survey([*made.hostile.values(), *made.damaged(COUNTS[name])])
    outcomes = dict(zip(made.hostile, found.outcomes, strict=False))
    assert outcomes == dict.fromkeys(made.hostile, "refused")
    assert not found.wrong
    assert found.memory < 1 << 28
    # Nothing was executed, and nothing written.
    assert sorted(tmp_path.iterdir()) == before


def test_damage_is_a_function_of_the_seed():
    data = bytes(range(256))
    assert list(damaged(data, 30)) == list(damaged(data, 30))
    assert list(damaged(data, 30)) != list(damaged(data, 30, seed=1))
    assert all(file != data for file in damaged(data, 30))


@pytest.mark.slow
@pytest.mark.parametrize(
    "programs",
    [
        {
            "raise FileError(f'{path}: no')": "refused",
            "raise FileError('no')": "does not name the file: no",
            "raise RuntimeError('no')": "RuntimeError: no",
            "bytearray(1 << 33)": "MemoryError: ",
            "import os; os.abort()": "the process ended with -6",
        },
        {"pass": "loaded", "import time; time.sleep(60)": "Timeout"},
    ],
)
def test_a_survey_tells_what_went_wrong(programs, tmp_path, monkeypatch):
    """A vague error, a flood of memory, a crash and a hang are told from a refusal."""
    (tmp_path / "reader.py").write_text(
        "from gru_jax.interop.files import FileError\n"
        "def load(path):\n    exec(path.read_text(), {'path': path, 'FileError': FileError})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = survey("reader", ".bin", b"", [each.encode() for each in programs], timeout=3)
    for outcome, expected in zip(found.outcomes, programs.values(), strict=True):
        assert expected in outcome
