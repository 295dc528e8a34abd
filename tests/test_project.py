"""The project's own files agree: version, citation, changelog, extras, programs of make."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import yaml
from packaging.requirements import Requirement

from scripts.install import requirements
from scripts.list_slow_tests import LIST, slow_tests
from tests.conftest import is_in_another_part

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    latest = re.search(r"^## ([0-9.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert PROJECT["version"] == citation["version"] == latest[1]
    assert PROJECT["license"] == citation["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


def test_the_oldest_python_is_classified():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    versions = [
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", classifier)
    ]
    assert versions[0] == oldest


def test_the_floors_are_what_is_tested():
    """.ci/run installs the versions of floor.txt, which are those that the project asks for."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["flax"], *extras["train"]]
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", each).groups() for each in asked if ">=" in each)
    lines = (ROOT / ".ci" / "floor.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.pop("jaxlib") == tested["jax"]
    assert tested.items() <= floors.items()
    assert floors.keys() - tested.keys() == {"tqdm"}


def test_the_package_installs_beside_jax_ai_stack():
    """The versions that jax-ai-stack 2025.10.28 requires, by its metadata."""
    stack = {
        "chex": "0.1.91",
        "flax": "0.12.0",
        "grain": "0.2.13",
        "jax": "0.8.0",
        "optax": "0.2.6",
        "orbax-checkpoint": "0.11.26",
    }
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(each) for each in PROJECT["dependencies"]]
    for extra in ("flax", "train", "experiments", "grain", "test"):
        asked += map(Requirement, extras[extra])
    checked = [each for each in asked if each.name in stack]
    assert {each.name for each in checked} == stack.keys()
    for each in checked:
        assert stack[each.name] in each.specifier, each


def test_the_library_has_no_upper_bounds():
    """Except Orbax, whose version 1 moves the API."""
    extras = PROJECT["optional-dependencies"]
    bounded = [
        each
        for each in [*PROJECT["dependencies"], *extras["flax"], *extras["train"]]
        if "<" in each
    ]
    assert [each.split(">")[0] for each in bounded] == ["orbax-checkpoint"]


def test_requirements_of_an_extra_include_those_of_its_extras():
    found = requirements("experiments")
    assert {"jax", "flax", "optax", "tyro", "onnx"} <= found
    assert not {"pytest", "gru-jax"} & found
    assert "pytest" in requirements("dev")


def test_no_marker_stands_where_the_build_drops_it():
    """The build expands a reference to an extra of our own and drops its marker.

    So `dev` names what `rl` asks for itself, and the two must agree.
    """
    extras = PROJECT["optional-dependencies"]
    own = [each for extra in extras.values() for each in extra if each.startswith("gru-jax[")]
    assert not [each for each in own if ";" in each]
    marked = dict(each.split("; ") for each in extras["dev"] if "; " in each)
    assert marked == {
        each: "python_version < '3.12'" for each in extras["rl"] if not each.startswith("gru-jax[")
    }


def test_the_compiler_for_gpus_is_in_the_version_of_jax():
    """jax pins its plugin; a plugin in another version is not used."""
    assert not [
        each
        for each in PROJECT["optional-dependencies"]["gpu-compiler"]
        if re.match("jax-|jaxlib", each)
    ]


def test_the_tests_that_are_listed_as_slow_exist():
    for line in LIST.read_text().splitlines():
        path, _, test = line.partition("::")
        name = re.match(r"\w+", test.rpartition("::")[2] if "[" not in test else test)[0]
        assert f"def {name}(" in (ROOT / path).read_text(), line


def test_each_slow_test_is_in_one_part_and_the_others_are_in_all():
    def parts_of(function, *, slow=True, fixtures=()):
        item = SimpleNamespace(
            nodeid=f"tests/a.py::{function}[case]",
            fixturenames=fixtures,
            get_closest_marker=lambda name: slow and name == "slow",
        )
        return [part for part in (1, 2, 3) if not is_in_another_part(item, part, 3)]

    found = [parts_of(f"test_{number}") for number in range(30)]
    assert {len(parts) for parts in found} == {1}
    assert {part for parts in found for part in parts} == {1, 2, 3}
    assert parts_of("test_0", slow=False) == [1, 2, 3]
    assert parts_of("test_0", fixtures=["published_data"]) == [1, 2, 3]


def test_a_case_is_slow_with_its_fixtures_and_the_fastest_case_stays():
    durations = """
    = slowest durations =
0.40s call     tests/a.py::test_each[x y]
0.40s setup    tests/a.py::test_each[x y]
0.60s call     tests/a.py::test_each[z]
0.00s teardown tests/a.py::test_each[z]
9.00s call     tests/a.py::test_all[x]
8.00s call     tests/a.py::test_all[y]
7.00s call     tests/a.py::test_whole
"""
    assert slow_tests(durations) == {"tests/a.py::test_each[x y]", "tests/a.py::test_all[x]"}
