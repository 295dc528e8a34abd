"""The configs of the repository: each is valid, and says what it costs and what it gives."""

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.runs.config_loading import load_config

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid_and_its_header_complete(path):
    config = load_config(path)
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"python -m experiments train configs/{path.name}" in header
    for part in ("Result:", "Time:", "Published:"):
        assert f"# {part}" in header
    for entry in config.published:
        assert f"{entry.value:g}" in header
        assert entry.source in header


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adding-200", "adding-400", "copy-500"])
def test_a_small_one_runs_to_its_end(name, workplace):
    small = ["--length=5", "--held-out=16", "--model.hidden-size=4", "--optimizer.warmup-steps=0"]
    small += ["--training.steps=6", "--training.eval-every=3"]
    config = REPOSITORY / "configs" / f"{name}.yaml"
    assert main(["train", str(config), "--run-dir", "run", *small]) == 0
    assert (workplace / "run" / "summary.json").exists()


def test_there_are_configs():
    assert {path.stem for path in CONFIGS} >= {"adding", "digits", "jsb", "nottingham"}
