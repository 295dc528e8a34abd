"""Laws of tables: wide equals long, any order of rows, gaps that are filled, Parquet as text."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments.own_data.sources import table
from experiments.own_data.written import write_predictions
from tests.experiments.own_data.tables import HOUR, data_config, meters


@pytest.fixture(scope="module")
def rows():
    return meters(6, 60)


def read(rows, path, problem="forecasting", **changes):
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_csv(path, index=False)
    return table.read(data_config(path, **changes), problem)


def assert_equal(left, right, *, without=("lines", "notes")):
    for field in dataclasses.fields(left):
        if field.name in without:
            continue
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(ours, tuple) and ours and isinstance(ours[0], np.ndarray):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
        elif isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


def test_the_sequences_of_a_table(rows, tmp_path):
    dataset = read(rows, tmp_path / "a.csv", step=None)
    assert dataset.names == tuple(sorted(rows.meter.unique()))
    assert [feature.name for feature in dataset.features] == ["load", "kind"]
    assert dataset.features[1].categories == ("office", "plant", "shop")
    for name, inputs, times in zip(dataset.names, dataset.inputs, dataset.times, strict=True):
        wanted = rows[rows.meter == name].sort_values("when")
        np.testing.assert_array_equal(inputs[:, 0], wanted.load)
        np.testing.assert_array_equal(times, wanted.when)
        kinds = [dataset.features[1].categories[int(index)] for index in inputs[:, 1]]
        assert kinds == wanted.kind.tolist()


def test_lines_are_those_of_the_file(rows, tmp_path):
    dataset = read(rows, tmp_path / "a.csv")
    written = (tmp_path / "a.csv").read_text().splitlines()
    for name, times, lines in zip(dataset.names, dataset.times, dataset.lines, strict=True):
        for time, line in zip(times[lines > 0], lines[lines > 0], strict=True):
            assert written[line - 1].startswith(f"{name},{pd.Timestamp(time)}")


def test_the_order_of_rows_and_columns_does_not_matter(rows, tmp_path):
    whole = read(rows, tmp_path / "a.csv")
    shuffled = rows.sample(frac=1, random_state=1)[["load", "when", "kind", "meter"]]
    assert_equal(read(shuffled, tmp_path / "b.csv"), whole)


@pytest.mark.parametrize("suffix", ["parquet", "tsv", "csv.gz"])
def test_kinds_of_files_are_read_alike(rows, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    whole = read(rows, tmp_path / "a.csv")
    if suffix == "tsv":
        rows.to_csv(path, sep="\t", index=False)
        assert_equal(table.read(data_config(path), "forecasting"), whole)
    else:
        assert_equal(read(rows, path), whole)


def test_a_step_adds_the_rows_that_are_missing(rows, tmp_path):
    """The file with these rows, in which all but id and time is missing, is the same."""
    gaps = read(rows, tmp_path / "a.csv")
    every = [
        pd.DataFrame({"meter": name, "when": pd.date_range(of.when.min(), of.when.max(), freq="h")})
        for name, of in rows.groupby("meter")
    ]
    whole = pd.concat(every).merge(rows, how="left", on=["meter", "when"])
    assert len(whole) > len(rows)
    assert_equal(gaps, read(whole, tmp_path / "b.csv", step=None))
    added = sum(int((lines == 0).sum()) for lines in gaps.lines)
    assert added == len(whole) - len(rows)
    assert any(f"{added:,} rows were missing" in note for note in gaps.notes)


def test_wide_equals_long(rows, tmp_path):
    """A series per column and forecasts of all of them are the series of the long file."""
    long = read(rows, tmp_path / "long.csv", inputs=[])
    names = list(long.names)
    wide = rows.pivot(index="when", columns="meter", values="load").reset_index()
    dataset = read(wide, tmp_path / "wide.csv", id=None, target=names)
    assert [feature.name for feature in dataset.features] == names
    for place, (inputs, times) in enumerate(zip(long.inputs, long.times, strict=True)):
        among = np.isin(dataset.times[0], times)
        np.testing.assert_array_equal(dataset.inputs[0][among, place], inputs[:, 0])


def test_files_are_sequences(rows, tmp_path):
    folder = tmp_path / "meters"
    folder.mkdir()
    for name, of_meter in rows.groupby("meter"):
        of_meter.drop(columns="meter").to_csv(folder / f"{name}.csv", index=False)
    whole = read(rows, tmp_path / "a.csv")
    for path in (folder, folder / "*.csv"):
        assert_equal(table.read(data_config(path, id=None), "forecasting"), whole)


def test_rows_of_one_id_may_be_in_several_files(rows, tmp_path):
    folder = tmp_path / "months"
    folder.mkdir()
    for number in range(3):
        rows[number::3].to_csv(folder / f"{number}.csv", index=False)
    assert_equal(table.read(data_config(folder), "forecasting"), read(rows, tmp_path / "a.csv"))


def test_files_say_their_part(rows, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for part, number in (("train", 0), ("validation", 1), ("test", 2)):
        rows[number::3].to_csv(folder / f"{part}.csv", index=False)
    dataset = table.read(data_config(folder, split="file"), "forecasting")
    assert sorted(set(dataset.split)) == ["test", "train", "validation"]
    assert len(dataset.names) == 3 * rows.meter.nunique()
    only = table.read(data_config(folder / "test.csv"), "forecasting")
    chosen = [place for place, part in enumerate(dataset.split) if part == "test"]
    for place, inputs in zip(chosen, only.inputs, strict=True):
        np.testing.assert_array_equal(dataset.inputs[place][:, 0], inputs[:, 0])


def test_months_are_steps_of_unequal_lengths(tmp_path):
    months = pd.date_range("2020-01-01", periods=30, freq="MS")
    rows = pd.DataFrame({"when": months, "load": np.arange(30.0)}).drop(index=[4, 17])
    dataset = read(rows, tmp_path / "a.csv", id=None, step="1MS")
    np.testing.assert_array_equal(dataset.times[0], months)
    assert np.flatnonzero(np.isnan(dataset.inputs[0][:, 0])).tolist() == [4, 17]


def test_steps_of_numbers(tmp_path):
    rows = pd.DataFrame({"when": [0.3, 0.1, 0.2, 0.7], "load": [3.0, 1, 2, 7]})
    dataset = read(rows, tmp_path / "a.csv", id=None, step="0.1")
    np.testing.assert_array_equal(dataset.inputs[0][:, 0], [1, 2, 3, np.nan, np.nan, np.nan, 7])
    np.testing.assert_allclose(dataset.times[0], np.arange(1, 8) / 10)


def test_targets_of_sequences_and_of_steps(tmp_path):
    rows = pd.DataFrame(
        {
            "meter": list("aabb"),
            "when": [1, 2, 1, 2],
            "x": [1.0, 2, 3, 4],
            "kind": ["old", "old", "new", "new"],
            "size": [5.0, 5, 7, 7],
            "mode": ["on", None, "off", "on"],
        }
    )
    options = {"inputs": ["x"], "step": None, "split": "sequence"}
    kinds = read(rows, tmp_path / "a.csv", "classification", target=["kind"], **options)
    assert kinds.target.classes == ("new", "old")
    np.testing.assert_array_equal(kinds.targets, [1, 0])
    sizes = read(rows, tmp_path / "b.csv", "regression", target=["size"], **options)
    assert sizes.target.classes is None
    np.testing.assert_array_equal(sizes.targets, [5, 7])
    modes = read(rows, tmp_path / "c.csv", "labelling", target=["mode"], **options)
    assert modes.target.classes == ("off", "on")
    np.testing.assert_array_equal(np.concatenate(modes.targets), [1, np.nan, 0, 1])
    new = rows.drop(columns="kind")
    new.to_csv(tmp_path / "d.csv", index=False)
    config = data_config(tmp_path / "d.csv", target=["kind"], **options)
    assert table.read(config, "classification", targets=False).targets is None


def test_numbers_of_categories_are_ordered_as_numbers(tmp_path):
    rows = pd.DataFrame({"when": range(4), "load": [1.0, 2, 3, 4], "code": [10, 9, 2, 10]})
    for name, codes in (("a.csv", rows.code), ("a.parquet", rows.code.astype(float))):
        dataset = read(
            rows.assign(code=codes), tmp_path / name, id=None, step=None, categories=["code"]
        )
        assert dataset.features[1].categories == ("2", "9", "10")
        np.testing.assert_array_equal(dataset.inputs[0][:, 1], [2, 1, 0, 2])


@pytest.mark.parametrize("cells", ["4,4,4", "4,,4"])
def test_new_rows_of_a_series_may_be_constant(tmp_path, cells):
    """Those of a training may not, see the wrong tables."""
    path = tmp_path / "new.csv"
    path.write_text("y\n" + "\n".join(cells.replace(",,", ",nan,").split(",")) + "\n")
    config = data_config(path, id=None, time=None, step=None, target=["y"])
    expected = [4, np.nan if ",," in cells else 4, 4]
    dataset = table.read(config, "forecasting", targets=False)
    np.testing.assert_array_equal(dataset.inputs[0][:, 0], expected)


def test_predictions_are_a_table(rows, tmp_path):
    @dataclasses.dataclass
    class Predictions:
        columns: dict
        times: tuple | None
        rows: str = "each step of the horizon"

    dataset = read(rows, tmp_path / "a.csv")
    times = tuple(times[-1] + HOUR * np.arange(1, 4) for times in dataset.times)
    values = tuple(np.float32([0.1, np.nan, place]) for place in range(len(times)))
    config = data_config(tmp_path / "a.csv")
    output = tmp_path / "out.csv"
    write_predictions(config, dataset, Predictions({"load": values}, times), output)
    written = pd.read_csv(output, parse_dates=["when"])
    assert written.columns.tolist() == ["meter", "when", "load"]
    assert written.meter.tolist() == np.repeat(dataset.names, 3).tolist()
    np.testing.assert_array_equal(written.when, np.concatenate(times))
    np.testing.assert_array_equal(written.load.astype("float32"), np.concatenate(values))
    assert "0.1\n" in output.read_text()
