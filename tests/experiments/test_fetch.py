"""The command that downloads data sets and shows their licences."""

import dataclasses
import re

import pytest

from experiments.cli import main
from experiments.datasets import registry
from experiments.datasets.registry import DataSet
from tests.experiments.flaky_server import data_file, files_in, serving


@pytest.fixture
def sets(monkeypatch):
    """Two data sets in place of the published ones: one of two files, one without a licence."""
    with serving() as server:
        published = data_file(server.url)
        other = dataclasses.replace(published, filename="folder/Other.mat")
        several = DataSet("several", "https://example.org/several", "CC0", (published, other))
        alone = dataclasses.replace(published, filename="Alone.mat")
        none = DataSet("none-stated", "https://example.org/none", None, (alone,))
        monkeypatch.setattr(registry, "DATA_SETS", {"several": several, "none-stated": none})
        yield


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["several"], ["Other.mat", "Published.mat"]),
        (["none-stated"], ["Alone.mat"]),
        (["none-stated", "several"], ["Alone.mat", "Other.mat", "Published.mat"]),
        (["all"], ["Alone.mat", "Other.mat", "Published.mat"]),
    ],
)
def test_the_command_fetches_all_files_and_says_the_licence(
    sets, tmp_path, capsys, names, expected
):
    assert main(["fetch", *names, "--data-dir", str(tmp_path)]) == 0
    assert files_in(tmp_path) == expected
    printed = capsys.readouterr().out
    for name in expected:
        assert f"{name} is verified." in printed
    several = "several: CC0, as https://example.org/several states\n" in printed
    none = "none-stated: https://example.org/none states no licence\n" in printed
    assert (several, none) == ("Other.mat" in expected, "Alone.mat" in expected)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_command_lists_the_data_sets_with_their_licences(arguments, capsys):
    try:
        code = main(["fetch", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    printed = capsys.readouterr().out
    for name, data_set in registry.DATA_SETS.items():
        (line,) = re.findall(rf"^  {name} .*$", printed, re.M)
        assert data_set.home in line
        assert (data_set.licence or "states no licence") in line
