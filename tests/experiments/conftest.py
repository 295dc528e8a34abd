"""Tiny experiments, each of which trains in about a second."""

import contextlib
import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import yaml
from matplotlib.figure import Figure

from experiments import generated
from experiments.cli import main
from experiments.files import write_json
from experiments.report import page
from experiments.runs.config_loading import check
from experiments.runs.directory import RunDirectory
from experiments.tables import model_name
from experiments.tasks import adding as adding_task
from gru_jax import training
from tests.experiments.report_page import MADE_WITH, PNG

TINY = {
    "model": {"hidden_size": 4},
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 6, "batch_size": 8, "eval_every": 3, "log_every": 2},
}
ADDING = {"task": "adding", "length": 5, "held_out": 16, **TINY}
PUBLISHED = [
    {"model": "RNN, Doe 1999", "metric": "mse", "value": 0.125, "source": "Doe 1999, table 7"},
    {"model": "GRU, Roe 2015", "metric": "mse", "value": 0.0625, "source": "Roe 2015"},
]
Write = Callable[..., Path]


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Returns the values of a config with another value of a dotted key."""
    values = copy.deepcopy(values)
    *parents, last = key.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return values


@pytest.fixture(autouse=True)
def unrendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves figures without their contents, which take half the time of a run to render.

    `make test-all` renders them in all tests, and `make test` in those that use ``rendered``.
    """

    def write_signature(figure: Figure, file: BinaryIO, **options: Any) -> None:
        file.write(b"\x89PNG\r\n\x1a\n")

    if request.config.option.markexpr == "not slow" and "rendered" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", write_signature)


@pytest.fixture
def interrupted_at_step() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """Ctrl-C when a run on the adding problem draws the batch of a step, of its seed or folder."""

    @contextlib.contextmanager
    def interrupted(step: int, *, seed: int = 0, in_run: Path | None = None) -> Iterator[None]:
        sample = adding_task.sample_sums

        def sample_or_stop(number: int, length: int, key: tuple[int, ...]) -> adding_task.Sums:
            if key == (generated.TRAIN, seed, step) and (in_run is None or in_run.exists()):
                os.kill(os.getpid(), signal.SIGINT)
            return sample(number, length, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(adding_task, "sample_sums", sample_or_stop)
            yield

    return interrupted


@pytest.fixture
def rendered() -> None:
    """Renders the figures of a test."""


@pytest.fixture
def adding() -> dict[str, Any]:
    """The tests change the nested values: each gets its own."""
    return copy.deepcopy(ADDING)


@pytest.fixture
def published(adding: dict[str, Any]) -> dict[str, Any]:
    """The adding problem, with invented published metrics."""
    return {**adding, "published": copy.deepcopy(PUBLISHED)}


@pytest.fixture
def digits() -> dict[str, Any]:
    return {"task": "digits", **copy.deepcopy(TINY)}


@pytest.fixture
def music() -> dict[str, Any]:
    return {"task": "music", "longest": 20, **copy.deepcopy(TINY)}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, without $GRU_JAX_DATA."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRU_JAX_DATA", raising=False)
    return tmp_path


@pytest.fixture
def write_config(workplace: Path) -> Write:
    """Writes values as YAML, or a text unchanged, to a config file."""

    def write(values: dict[str, Any] | str, name: str = "tiny.yaml") -> Path:
        path = workplace / name
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def user_error(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must raise a user error; returns its message.

    The exit code is 2, only the message is printed, and nothing is written.
    """

    def run(*arguments: object) -> str:
        before = sorted(workplace.rglob("*"))
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        printed = capfd.readouterr()
        assert code == 2
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert sorted(workplace.rglob("*")) == before
        return printed.err

    return run


@pytest.fixture
def make_run(published: dict[str, Any], workplace: Path) -> Callable[..., RunDirectory]:
    """Makes the directory of a finished run, without training."""

    def make(
        path: str,
        *,
        test: float = 0.5,
        steps: int = 6,
        status: str | None = "finished",
        **values: Any,
    ) -> RunDirectory:
        config = check(adding_task.Config, {**published, **values}, where="test")
        run = RunDirectory(workplace / path)
        run.create(config)
        log = training.JsonlWriter(run.metrics)
        log.resume_from(0)
        for step in range(2, steps + 1, 2):
            row = {"step": step, "seconds": step / 2}
            log.write({**row, "split": "train", "loss": 1 / step})
            log.write({**row, "split": "validation", "mse": 2 / step})
        write_json(run.meta, MADE_WITH)
        if status is not None:
            write_json(run.meta, {**MADE_WITH, "wall_seconds": 4321.0})
            (run.plots / "learning_curves.png").write_bytes(PNG)
            (run.plots / "sample.txt").write_text("To be, or not to <b>be</b>")
            summary = {
                "task": "adding",
                "seed": config.seed,
                "model": model_name(config.model),
                "parameters": 12345,
                "status": status,
                "steps": steps,
                "best_step": 4,
                "validation": {"mse": 0.25},
                "test": {"mse": test},
                "baselines": {"mean of all sums": {"mse": 0.1875}},
            }
            write_json(run.summary, summary)
        return run

    return make


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the plotting of a report, which is slow, in tests of other things."""
    monkeypatch.setattr(page, "plot_curves", lambda runs: [])
