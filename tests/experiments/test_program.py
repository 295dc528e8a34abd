"""What a command is called, and which config a name means."""

import importlib
import sys

import pytest

from experiments import program
from experiments.runs.config_loading import CONFIG_DIR, find_config, included_configs


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("/env/bin/gru-jax", "gru-jax"),
        ("gru-jax.exe", "gru-jax"),
        ("/env/lib/gru_jax/__main__.py", "python -m gru_jax"),
        ("/clone/experiments/__main__.py", "python -m experiments"),
        ("/env/bin/pytest", "python -m experiments"),
    ],
)
def test_commands_are_called_as_they_were_started(monkeypatch, started, expected):
    monkeypatch.setattr(sys, "argv", [started])
    try:
        called = importlib.reload(program).PROGRAM
        assert called == expected
    finally:
        monkeypatch.undo()
        importlib.reload(program)


def test_the_projects_configs_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "digits" in included_configs()
    assert find_config("digits") == CONFIG_DIR / "digits.yaml"
    assert str(find_config("other")) == "other"
    assert str(find_config("../digits")) == "../digits"


def test_a_file_precedes_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find_config("digits") == CONFIG_DIR / "digits.yaml"
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").touch()
    assert str(find_config("digits")) == "digits"


@pytest.mark.parametrize("name", ["digit", "digits.yml"])
def test_a_misspelt_name_is_corrected(user_error, name):
    assert user_error("train", name) == f"There is no config file {name}. Did you mean digits?\n"
