"""The command init: what it decides of a file, and the config that it writes."""

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.cli import main
from experiments.own_data.config import SequencesConfig
from experiments.own_data.sources import table
from experiments.runs.config_loading import load_config
from tests.experiments.own_data.tables import meters


@pytest.fixture(scope="module")
def rows():
    return meters(6, 150)


@pytest.fixture
def init(workplace, capsys):
    """Runs the command on a table; returns the config that it wrote and what it printed."""

    def run(rows, *options, name="my.csv"):
        if isinstance(rows, pd.DataFrame):
            rows.to_csv(workplace / name, index=False)
        elif rows is not None:
            (workplace / name).write_text(rows)
        assert main(["init", name, "-o", "my.yaml", "--force", *options]) == 0
        config = load_config(workplace / "my.yaml")
        assert isinstance(config, SequencesConfig)
        return config, capsys.readouterr().out

    return run


def test_a_long_table_of_series(init, rows, workplace):
    config, printed = init(rows)
    assert config.problem == "forecasting"
    assert config.data.model_dump(exclude_defaults=True) == {
        "path": "my.csv",
        "target": ["load"],
        "id": "meter",
        "time": "when",
        "step": "1h",
        "split": "time",
        "scale": config.data.scale,
    }
    assert (config.window, config.horizon, config.season) == (48, 11, 24)
    text = " ".join((workplace / "my.yaml").read_text().replace("#  ", "").split())
    for part in (
        "# Train: python -m experiments train my.yaml --run-dir runs/my",
        "meter (id, 6 different values)",
        "kind (3 different values)",
        "load (target, numbers from",
        "missing)",
        "# each time of when occurs once for each of its 6 values",
        "# its cells are times such as 2024-01-",
        "of rows are this far from the one before",
        "# the last rows of each sequence are for the test",
    ):
        assert part in text
    lines = printed.splitlines()
    assert lines[0].startswith("my.yaml is for forecasting of load, ")
    assert len(lines) <= 10
    assert lines[-1].endswith("train my.yaml --run-dir runs/my")
    # What is written is read.
    table.read(config.data, config.problem)


def test_options_overrule(init, rows):
    config, _ = init(
        rows,
        *("--target", "load", "--horizon", "3", "--window", "9", "--season", "5"),
        *("--split", "sequence", "--scale", "none", "--known-ahead", "kind"),
    )
    assert (config.horizon, config.window, config.season) == (3, 9, 5)
    assert (config.data.split, config.data.scale) == ("sequence", "none")
    assert config.data.known_ahead == ["kind"]


def test_what_is_chosen_as_an_input_is_no_target(init, rows):
    for option in ("--known-ahead", "--inputs"):
        config, _ = init(rows.assign(price=np.arange(len(rows)) % 7), option, "price")
        assert config.data.target == ["load"]


def test_a_wide_table(init):
    hours = pd.date_range("2024-01-01", periods=300, freq="h")
    rows = pd.DataFrame({"date": hours, "wind": np.sin(np.arange(300)), "sun": np.arange(300.0)})
    config, _ = init(rows)
    assert (config.data.time, config.data.id, config.data.target) == ("date", None, ["sun"])
    config, _ = init(rows, "--target", "wind", "sun")
    assert config.data.target == ["wind", "sun"]


def test_a_series_with_a_text_at_the_end_is_forecast(init):
    """A weekday changes within the series, and nobody wants it predicted."""
    days = pd.date_range("2021-01-01", periods=120)
    table = pd.DataFrame({"day": days, "sales": np.arange(120.0), "weekday": days.day_name()})
    config, _ = init(table)
    assert (config.problem, config.data.target) == ("forecasting", ["sales"])


def test_the_season_is_the_lag_that_repeats(init):
    steps = np.arange(400)
    value = np.sin(2 * np.pi * steps / 17) + 0.1 * np.random.default_rng(0).normal(size=400)
    config, _ = init(pd.DataFrame({"t": steps, "value": value}))
    assert config.season == 17
    assert config.data.step == "1"


def of_sequences(label):
    return pd.DataFrame(
        {
            "recording": np.repeat(np.arange(30), 5),
            "t": np.tile(np.arange(5), 30),
            "x": np.random.default_rng(0).normal(size=150),
            "label": label,
        }
    )


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (np.repeat(["cat", "dog", "cow"], 50), "classification"),
        (np.repeat([0, 1, 2], 50), "classification"),
        (np.repeat(np.linspace(0, 1, 30), 5), "regression"),
        (np.tile(["on", "off", "on", "on", "off"], 30), "labelling"),
        (np.tile([0, 1, 1, 1, 0], 30), "labelling"),
        (np.random.default_rng(0).normal(size=150), "forecasting"),
    ],
)
def test_the_problem_follows_from_the_target(init, label, problem):
    config, _ = init(of_sequences(label))
    assert config.problem == problem
    assert (config.data.id, config.data.time) == ("recording", "t")
    assert config.data.target == ["label"]
    assert config.data.split == ("time" if problem == "forecasting" else "sequence")
    dataset = table.read(config.data, config.problem)
    if problem in ("classification", "labelling"):
        assert len(dataset.target.classes) == len(np.unique(label))


def test_blocks_of_rows_are_sequences(init):
    """As in a table of images with a row of pixels per row."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "image": np.repeat(np.arange(60), 8),
            "row": np.tile(np.arange(8), 60),
            "left": rng.integers(0, 16, 480),
            "right": rng.integers(0, 16, 480),
            "digit": np.repeat(np.arange(60) % 3, 8),
        }
    )
    config, _ = init(rows)
    assert (config.problem, config.data.id, config.data.time) == ("classification", "image", "row")
    assert config.data.inputs is None


def test_a_chosen_problem(init):
    config, _ = init(of_sequences(np.repeat([0, 1, 2], 50)), "--problem", "regression")
    assert config.problem == "regression"


def test_decimal_commas_are_seen(init):
    config, _ = init("tag;name;wert\n13.01.2024;a;1,5\n14.01.2024;b;-2,25\n" + rows_of_commas())
    assert config.data.decimal == ","
    dataset = table.read(config.data, config.problem)
    np.testing.assert_array_equal(dataset.inputs[0][:2, 0], [1.5, -2.25])


def rows_of_commas():
    return "".join(f"{day:02}.02.2024;a;{day},5\n" for day in range(1, 29))


def test_columns_that_do_not_serve_are_left_out(init, workplace):
    steps = np.arange(200)
    rows = pd.DataFrame(
        {
            "time": steps,
            "nothing": np.nan,
            "same": 3,
            "note": [f"note {step}" for step in steps],
            "other": np.cos(steps),
            "y": np.sin(steps),
        }
    )
    config, _ = init(rows)
    assert config.data.inputs == ["other"]
    text = " ".join((workplace / "my.yaml").read_text().replace("#", " ").split())
    for part in (
        "nothing is missing in 100% of the rows",
        "same is 3 in every row",
        "note has 200 different texts",
    ):
        assert part in text


def test_a_config_is_replaced_only_if_asked(rows, workplace, user_error):
    rows.to_csv("my.csv", index=False)
    (workplace / "my.yaml").write_text("task: digits\n")
    message = user_error("init", "my.csv")
    assert "my.yaml exists already" in message
    assert "--force" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mi.csv"], "There is no file mi.csv. Did you mean my.csv?"),
        (["none"], "There is no file or folder none"),
        (["my.csv", "--target", "laod"], "no column 'laod'"),
        (["my.csv", "--id", "metre"], "no column 'metre', which data.id names"),
        (["my.csv", "--time", "kind"], "kind is 'office', but should be a time"),
        (["my.csv", "--separator", ";;"], "separator"),
        (["my.csv", "--horizon", "0"], "horizon is 0"),
        (["notes.doc"], "The kind of notes.doc is not clear"),
        (["empty"], "holds no file of a known kind"),
    ],
)
def test_what_does_not_serve_is_told(rows, workplace, user_error, arguments, expected):
    rows.to_csv("my.csv", index=False)
    (workplace / "notes.doc").write_text("x")
    (workplace / "empty").mkdir()
    message = user_error("init", *arguments)
    assert expected in message
    assert len(message) < 800


def test_names_of_columns_cannot_write_keys(init, workplace):
    """A comment holds what a file says; it stays one."""
    names = ["t", "y: 1", "a\nseed: 7", "# b", "é\x07", "- c", "{d}", "'", "null", "1e3x"]
    rows = pd.DataFrame({name: np.sin(np.arange(60) + place) for place, name in enumerate(names)})
    rows["t"] = np.arange(60)
    config, _ = init(rows)
    assert config.seed == 0
    values = yaml.safe_load((workplace / "my.yaml").read_text())
    assert values["data"]["target"] == ["1e3x"]
    assert len(table.read(config.data, config.problem).features) == len(names) - 1
