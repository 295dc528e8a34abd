"""YAML: scalars as in YAML 1.2's core schema, and bounds of cost."""

import math
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import yaml_files

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("020", 20),
        ("0o20", 16),
        ("0x1F", 31),
        ("-7", -7),
        ("1:20", "1:20"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("2026-13-45", "2026-13-45"),
        ("2026-11-29", "2026-11-29"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("'7'", "7"),
        ('"true"', "true"),
        ("! 7", "7"),
        ("!!int 7", 7),
        ("!!int '7'", 7),
        ("!!float 7", 7.0),
        ("!!str 7", "7"),
        ("!!null ''", None),
    ],
)
def test_scalars(text, value):
    found = yaml_files.parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number():
    assert math.isnan(yaml_files.parse(".nan"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!int foo", "'foo' is not a value of !!int, line 1, column 4"),
        ("a: !!float foo", "'foo' is not a value of !!float"),
        ("a: !!bool foo", "'foo' is not a value of !!bool"),
        ("a: !!timestamp 2026-01-01", "timestamp is not supported"),
        ("a: !!python/name:os.system x", "is not supported"),
        ("a: !!set {b}", "set is not supported"),
        ("a: !mine [1]", "the tag !mine is not supported"),
        ("a: " + "9" * 5000, "a number has 5,000 characters"),
        ("a: " + "[" * 5000 + "]" * 5000, "nest"),
        ("a: " + "[" * 500 + "]" * 500, "nested deeper than 32"),
        ("a: " + "{a: " * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ("a: &a [*a]", "the alias a has no anchor before it"),
        ("a: *b", "the alias b has no anchor before it"),
        ("a: 1\na: 2", "duplicate key a, line 2"),
        ("? [1]\n: 2", "a key is a mapping or a list"),
        ("a: 1\n---\nb: 2", "there is a second document"),
        ("a: [1", "did not find expected"),
        ("a: \x00", "control characters are not allowed"),
    ],
)
def test_what_is_rejected(text, expected):
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        yaml_files.parse(text)
    assert len(str(error.value)) < 500


def nested_aliases(width, depth):
    lines = ["a0: &a0 [x]"]
    for level in range(1, depth + 1):
        aliases = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


def test_aliases_are_counted_with_those_that_they_contain():
    # The levels expand 10, 10 * 11, and 10 * 111 aliases.
    assert len(yaml_files.parse(nested_aliases(10, 2))["a2"]) == 10
    with pytest.raises(ValueError, match="expanded more than 1,000 times"):
        yaml_files.parse(nested_aliases(10, 3))
    with pytest.raises(ValueError, match="expanded more than 1,000 times"):
        yaml_files.parse(nested_aliases(9, 11))


def test_values_are_counted():
    text = f"a: &a [{'1, ' * 1000}]\n" + "\n".join(f"b{i}: *a" for i in range(100))
    with pytest.raises(ValueError, match="more than 100,000 values"):
        yaml_files.parse(text)


@pytest.mark.parametrize("unit", ["[],", "a,", "? ", "- ", "&a ", "*a ", "{", "'", "# ", "!!int "])
def test_the_largest_files_are_read_in_bounded_time(unit):
    text = "a: [" + unit * (yaml_files.LARGEST // len(unit))
    begun = time.process_time()
    with pytest.raises(ValueError, match=r"line \d+|values"):
        yaml_files.parse(text)
    assert time.process_time() - begun < 20


def texts(characters, min_size=0):
    """Texts. Others of Hypothesis' strategies build tables of all Unicode first: seconds."""
    return st.lists(st.sampled_from(characters), min_size=min_size, max_size=6).map("".join)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | texts("aé :#'\\-0\n[")
    | texts("-+0179.eEox_:~", min_size=1)
    | st.sampled_from(["yes", "null", "true", ".inf", "0o7", "1e3", "<<", "=", "~"])
)


@settings(deadline=None)
@given(st.dictionaries(texts("abc", min_size=1), SCALARS | st.lists(SCALARS, max_size=3)))
def test_what_is_dumped_is_read_back(values):
    assert yaml_files.parse(yaml_files.dump(values)) == values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_mean_what_they_meant_in_yaml_1_1(path):
    """No scalar of the configs differs, but those like 1e-3, which YAML 1.1 reads as text."""

    def with_floats(value):
        if isinstance(value, dict):
            return {key: with_floats(item) for key, item in value.items()}
        if isinstance(value, list):
            return [with_floats(item) for item in value]
        try:
            return float(value) if isinstance(value, str) and "e-" in value else value
        except ValueError:
            return value

    text = path.read_text()
    assert yaml_files.parse(text) == with_floats(yaml.safe_load(text))
