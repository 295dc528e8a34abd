"""The comparison of two revisions' speed, here of a checkout with itself."""

import contextlib
import json
import subprocess
import time
import types
from pathlib import Path

import pytest

from experiments.bench import timing
from experiments.bench.revisions import command, file_loads, measure
from experiments.bench.revisions.process import RevisionProcess
from experiments.bench.revisions.report import label, to_markdown
from experiments.bench.revisions.worker import Worker
from experiments.bench.timing import shuffled_rounds
from experiments.cli import main
from experiments.errors import UserError
from experiments.interop.bad_files.formats import FORMATS
from tests.slow import slow_but

ROOT = Path(__file__).parents[2]
SIZE = "2,5,3,4"


@pytest.fixture
def make_package(tmp_path):
    """Makes a folder whose `gru_jax` runs the given lines, and returns it."""

    def make(source: str) -> Path:
        (tmp_path / "gru_jax").mkdir()
        (tmp_path / "gru_jax" / "__init__.py").write_text(source)
        return tmp_path.resolve()

    return make


@pytest.mark.slow
def test_the_command_compares_two_processes(workplace, capsys, monkeypatch):
    # The minimum number of rounds is enough here, whatever the time.
    monkeypatch.setattr(
        measure, "shuffled_rounds", lambda names, _, least: shuffled_rounds(names, float("-inf"), 2)
    )
    options = ["--sizes", SIZE, "--minutes", "8", "--output", "out"]
    assert main(["bench", "--revisions", str(ROOT), *options]) == 0
    result = json.loads(Path("out", "revisions.json").read_text())
    assert list(result["cases"]) == [f"GRU {SIZE}"]
    (row,) = result["cases"].values()
    assert tuple(row) == measure.METRICS
    for summaries in row.values():
        assert all(summary["min"] > 0 for summary in summaries.values())
        assert {summary["rounds"] for summary in summaries.values()} == {2}
    assert result["revisions"]["old"] == result["revisions"]["new"]
    assert result["not_measured"] == []
    shown = "python -m experiments bench --revisions OLD_CHECKOUT"
    assert result["command"] == f"{shown} --sizes {SIZE} --minutes 8"
    table = Path("out", "revisions.md").read_text()
    assert table == to_markdown(result)
    assert table.strip() in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 3])
def test_the_last_case_ends_before_the_deadline(number, monkeypatch):
    """By a clock that each question to a process moves by a second."""
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    for module in (measure, timing):
        monkeypatch.setattr(module, "time", clock)

    class Process(contextlib.nullcontext):
        def __init__(self, folder, deadline):
            self.deadline = deadline
            super().__init__(self)

        def check(self):
            pass

        def ask(self, request, *_):
            clock.now += 1
            if clock.now > self.deadline:
                raise TimeoutError
            return 5.0 if request == "run" else dict.fromkeys(("trace", "compile"), 1.0)

    monkeypatch.setattr(measure, "RevisionProcess", Process)
    folders = dict.fromkeys(("old", "new", "control"), ROOT)
    found = list(measure.measure(folders, measure.CASES[:number], 152.0 * number))
    assert len(found) == number


def test_passes_add_rounds_and_what_no_pass_measured_is_named(workplace, monkeypatch):
    rounds = {metric: [{"old": 2.0, "new": 1.0, "control": 2.0}] for metric in measure.METRICS}
    passes = [[("GRU 1,2,3,4", rounds)], [("GRU 1,2,3,4", rounds), ("GRU 2,2,3,4", rounds)]]
    monkeypatch.setattr(command, "measure", lambda *_: passes.pop())
    options = ["--sizes", "1,2,3,4", "2,2,3,4", "3,2,3,4", "--passes", "2", "--output", "out"]
    assert main(["bench", "--revisions", str(ROOT), *options]) == 0
    result = json.loads(Path("out", "revisions.json").read_text())
    counts = [row["run forward"]["old"]["rounds"] for row in result["cases"].values()]
    assert counts == [2, 1]
    assert result["not_measured"] == ["GRU 3,2,3,4"]


@pytest.mark.slow
def test_the_command_compares_loads_of_files(workplace, monkeypatch):
    monkeypatch.setattr(file_loads, "SIZES", ["0.3 MB"])
    monkeypatch.setattr(file_loads, "MIN_ROUNDS", 1)
    monkeypatch.setattr(
        file_loads,
        "shuffled_rounds",
        lambda names, _, least: shuffled_rounds(names, float("-inf"), least),
    )
    options = ["--files", "--cases", "own_safetensors", "--output", "out"]
    assert main(["bench", "--revisions", str(ROOT), *options]) == 0
    result = json.loads(Path("out", "file_loads.json").read_text())
    assert list(result["cases"]) == ["own_safetensors 0.3 MB"]
    (row,) = result["cases"].values()
    assert tuple(row) == file_loads.METRICS
    assert all(summary["min"] > 0 for summaries in row.values() for summary in summaries.values())
    assert Path("out", "file_loads.md").read_text() == to_markdown(result)


@pytest.mark.parametrize("case", slow_but([("onnx_model", "0.3 MB")], file_loads.cases()))
def test_workers_load_files_of_every_format(case, tmp_path):
    name, size = case
    file_format = FORMATS[name](tmp_path)
    path = tmp_path / f"file{file_format.suffix}"
    path.write_bytes(file_format.large(file_loads.num_bytes(size)))
    assert path.stat().st_size == pytest.approx(file_loads.num_bytes(size), rel=0.1)
    times = Worker().load(file_format.module, str(path), seconds=0, least=1)
    assert len(times) == 2
    assert min(times) > 0


@pytest.mark.parametrize("name", slow_but(["GRU"], dict(measure.CASES)))
def test_cases_run_by_the_public_functions(name):
    worker = Worker()
    worker.prepare(name, [2, 4, 3, 2])
    assert all(milliseconds > 0 for milliseconds in worker.compile("gradient").values())
    assert worker.run("gradient", calls=1) > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--revisions", "."], ["--revisions is .", "not a checkout of gru_jax"]),
        (["--revisions=nowhere"], ["--revisions is nowhere", "gru_jax/__init__.py"]),
        (["--revisions", ROOT, "--minutes", "0"], ["--minutes is 0"]),
        (["--revisions", ROOT, "--passes", "0"], ["--passes is 0"]),
        (["--revisions", ROOT, "--files", "--sizes", SIZE], ["--sizes", "--files"]),
        (["--revisions", ROOT, "--cases", "LSMT"], ["no case 'LSMT'", "LSTM"]),
        (["--revisions", ROOT, "--files", "--cases", "LSTM"], ["no case 'LSTM'", "onnx_model"]),
        (["--revisions", ROOT, "--sizes", "1,2"], ["--sizes", "1,2", "batch,time,input,hidden"]),
    ],
)
def test_wrong_options_are_named(options, expected, user_error):
    message = user_error("bench", *options)
    for part in expected:
        assert part in message


def test_too_little_time_is_an_error(user_error):
    message = user_error("bench", "--revisions", ROOT, "--minutes", "0.001")
    assert "Nothing was measured within --minutes 0.001" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('broken revision')", "broken revision"),
        ("__file__ = '/elsewhere/gru_jax/__init__.py'", "imported /elsewhere/gru_jax/__init__.py"),
    ],
)
def test_a_checkout_that_cannot_be_measured_is_named(make_package, source, message):
    folder = make_package(source)
    with (
        RevisionProcess(folder, time.monotonic() + 120) as process,
        pytest.raises(UserError, match=message) as caught,
    ):
        process.check()
    assert str(folder) in str(caught.value)


def test_a_process_ends_with_its_context(tmp_path):
    with RevisionProcess(tmp_path, time.monotonic()) as process, pytest.raises(TimeoutError):
        process.ask("package")
    assert isinstance(process._process, subprocess.Popen)
    assert process._process.returncode is not None


def test_the_report_has_ratios_of_rounds_and_names_what_was_not_measured():
    rounds = [{"old": 2.0, "new": 1.0, "control": 2.0}, {"old": 4.0, "new": 2.0, "control": 4.0}]
    row = {metric: measure.summarize_rounds(rounds) for metric in measure.METRICS}
    state = {"git_revision": "a" * 40, "git_changed_files": []}
    result = {
        "command": "bench",
        "device": {"platform": "cpu", "kind": "cpu", "cpu_cores": 2, "cpu": "AVX2"},
        "versions": {"jax": "0", "python": "3"},
        "revisions": {"old": state, "new": {**state, "git_changed_files": [" M file"]}},
        "cases": {"GRU 1,2,3,4": row},
        "not_measured": ["LSTM 1,2,3,4"],
    }
    text = to_markdown(result)
    assert "On 2 CPU cores (AVX2), jax 0" in text
    assert "| run forward | 0.500 | 1.000 | 0.500 | 1.000 |" in text
    ratios = "0.500 (0.500 to 0.500) | 1.000 (1.000 to 1.000)"
    assert f"| GRU 1,2,3,4 | 3 (2.5 to 3.5) | 1.5 (1.25 to 1.75) | {ratios} | 2 |" in text
    assert "Not measured within the time limit: LSTM 1,2,3,4." in text
    assert (label(result, "old"), label(result, "new")) == ("a" * 10, "a" * 10 + "+")


@pytest.mark.parametrize("name", ["revisions", "file_loads"])
def test_the_committed_reports_are_of_clean_checkouts(name):
    result = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    assert (ROOT / "benchmarks" / f"{name}.md").read_text() == to_markdown(result)
    assert all(state["git_changed_files"] == [] for state in result["revisions"].values())
