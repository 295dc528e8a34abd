"""--help of every command: it fits a screen, begins with an example, and shows choices."""

import contextlib

import pytest

from experiments.cli import COMMANDS, main
from experiments.export_formats import FORMATS

SCREEN = 40, 80
HELPS = [
    *([name] for name in COMMANDS),
    *([name, "digits"] for name, command in COMMANDS.items() if command.options),
    ["bench", "--gpu"],
    ["bench", "--revisions", "older"],
    ["interop", "fuzz"],
]


@pytest.fixture
def help_of(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(SCREEN[1]))

    def show(*arguments):
        # Most help is printed by tyro, which then ends the program.
        with contextlib.suppress(SystemExit):
            main([*arguments, "--help"])
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_fits_a_screen_and_begins_with_an_example(help_of, arguments):
    lines = help_of(*arguments).splitlines()
    assert len(lines) <= SCREEN[0]
    # The terminal breaks the usage; a URL is not broken.
    assert max(len(line) for line in lines[1:] if "https://" not in line) <= SCREEN[1]
    first = " ".join(lines).split("Example: ")[0]
    assert first.startswith("usage: python -m experiments ")
    assert len(first) <= 4 * SCREEN[1]
    assert f"Example: python -m experiments {arguments[0]} " in "\n".join(lines)


def test_the_list_of_commands_fits_a_screen(help_of):
    lines = help_of().splitlines()
    assert len(lines) <= SCREEN[0]
    assert max(map(len, lines)) <= SCREEN[1]
    assert lines[1].startswith("Example: ")


def test_choices_are_shown(help_of):
    assert f"--to {{{','.join(FORMATS)}}}" in help_of("export")
    shown = help_of("train", "digits")
    assert "--model.cell {gru,lstm,rnn} (gru)" in shown
    assert "--resume {auto,never,must}" in shown
    assert "--optimizer.learning-rate FLOAT (0.02)" in shown
    assert "--training.patience INT|None (None)" in shown
    assert "--model.bidirectional {True,False} (False)" in shown


def test_the_long_help_describes_each_field(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["train", "digits", "-H"])
    assert "Peak learning rate. (default: 0.02)" in capsys.readouterr().out
