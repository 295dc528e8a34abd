"""The project's own files agree: version, citation, changelog, extras, programs of make."""

import re
import tomllib
from pathlib import Path

import yaml

from scripts.install import requirements

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
