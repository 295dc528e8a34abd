"""Shell completion of commands, configs and options."""

import shutil
import subprocess

import pytest

from experiments import cli

# Completes the words of a command line as bash does.
COMPLETE = """
source "$1"; shift
function=$(complete -p gru-jax | sed "s/.*-F \\([^ ]*\\).*/\\1/")
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$function gru-jax "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
echo "${COMPREPLY[@]}"
"""


@pytest.fixture
def completed(capsys, tmp_path):
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    with pytest.raises(SystemExit) as stop:
        cli.main([cli.COMPLETION, "bash"])
    assert not stop.value.code
    script = tmp_path / "gru-jax.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words):
        command = [bash, "-c", COMPLETE, "bash", script, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return complete


def test_commands_and_options_are_completed(completed):
    assert set(cli.COMMANDS) <= set(completed("gru-jax", ""))
    assert completed("gru-jax", "exp") == ["export"]
    assert "--to" in completed("gru-jax", "export", "run", "--t")
    assert {"--model.cell", "--model.chrono-bias"} == set(
        completed("gru-jax", "train", "digits", "--model.c")
    )
    assert "--search" in completed("gru-jax", "compare", "digits", "--")
