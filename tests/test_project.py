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


def test_requirements_of_an_extra_include_those_of_its_extras():
    found = requirements("experiments")
    assert {"jax", "flax", "optax", "tyro", "onnx"} <= found
    assert not {"pytest", "gru-jax"} & found
    assert "pytest" in requirements("dev")
