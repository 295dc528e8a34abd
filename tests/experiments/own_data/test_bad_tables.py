"""Tables that are wrong: each is met by one message that names file, column and row."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.sources import table
from experiments.runs.config_loading import check

ROWS = "time,y,x\n2024-01-01,1,5\n2024-01-02,2,6\n2024-01-03,3,7\n"


def read(path, problem="forecasting", **changes):
    values = {"path": str(path), "time": "time", "target": ["y"], **changes}
    values = {key: value for key, value in values.items() if value is not None}
    return table.read(check(DataConfig, values, where="test"), problem)


def parquet(**columns):
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


LONG = "id,time,y,x\na,1,0,5\na,2,0,6\nb,1,1,7\nb,2,1,8\n"
WRONG = {
    # The file.
    "empty": ("", {}, ["is empty", "header"]),
    "header only": ("time,y\n", {}, ["no rows below"]),
    "blank lines only": ("\n\n\n", {}, ["is empty"]),
    "no header": ("1,2,3\n4,5,6\n", {}, ["line 1 is 1, 2, 3", "header with the columns' names"]),
    "Latin-1": (
        "time,y\n2024-01-01,1\n2024-01-02,né\n".encode("latin-1"),
        {},
        ["line 3 is not UTF-8", "0xe9"],
    ),
    "null characters": ("time,y\n2024-01-01,\0\n", {}, ["line 2 holds a null character"]),
    "Excel": (b"PK\x03\x04" + bytes(50), {}, ["an Excel or ZIP file"]),
    "Parquet by a wrong name": (parquet(time=[1], y=[2.0]), {}, ["a Parquet file", ".parquet"]),
    "gzip by a wrong name": (gzip.compress(ROWS.encode()), {}, ["compressed", ".gz"]),
    # Its rows.
    "a row too short": (
        "time,y,x\n2024-01-01,1,5\n2024-01-02,2\n",
        {},
        ["line 3 has 2 cells", "3 columns"],
    ),
    "a row too long": (
        "time,y\n2024-01-01,1\n2024-01-02,2,9\n",
        {},
        ["line 3 has 3 cells", "2 columns"],
    ),
    "decimal commas between commas": (
        "time,y\n2024-01-01,1,5\n2024-01-02,2,5\n",
        {},
        ["line 2 has 3 cells", "decimal commas"],
    ),
    "a quote that is never closed": (
        'time,y\n2024-01-01,"1\n2024-01-02,2\n',
        {},
        ["line 2", "quotation mark is not closed"],
    ),
    "a quote within a cell": ('time,y\n2024-01-01,"1"2\n', {}, ["line 2", "expected after"]),
    "duplicate names": ("time,y,y\n2024-01-01,1,2\n", {}, ["two columns 'y', the 2. and the 3."]),
    # Its columns.
    "no such target": (
        ROWS,
        {"target": ["yy"]},
        ["no column 'yy'", "data.target", "time, y, x", "mean y?"],
    ),
    "no such time": (ROWS, {"time": "tiem"}, ["no column 'tiem'", "data.time", "mean time?"]),
    "no such id": (ROWS, {"id": "series"}, ["no column 'series'", "data.id"]),
    "no such input": (ROWS, {"inputs": ["z"]}, ["no column 'z'", "data.inputs"]),
    "another separator": (
        ROWS,
        {"separator": ";"},
        ["no column", "Its columns are time,y,x", "data.separator"],
    ),
    "target among the inputs": (ROWS, {"inputs": ["y"]}, ["data.inputs names y", "is a target"]),
    "no target": (ROWS, {"target": []}, ["data.target is empty"]),
    "nothing to predict from": (
        "y\n0\n1\n",
        {"time": None, "problem": "labelling"},
        ["no column to predict from"],
    ),
    # Numbers.
    "text among numbers": (
        ROWS + "2024-01-04,oops,8\n",
        {},
        ["line 5", "y is 'oops'", "3 cells of y are numbers"],
    ),
    "decimal commas": (
        "time;y\n2024-01-01;1,5\n2024-01-02;2,5\n",
        {},
        ["line 2", "y is '1,5'", "data.decimal"],
    ),
    "points of thousands": (
        "time;y\n2024-01-01;1.000,5\n2024-01-02;2,5\n",
        {"decimal": ","},
        ["line 2", "'1.000,5'"],
    ),
    "infinite": (ROWS + "2024-01-04,inf,8\n", {}, ["line 5", "y is 'inf'", "finite number"]),
    "beyond float32": (
        ROWS + "2024-01-04,1e200,8\n",
        {},
        ["line 5", "y is 1e200", "at most 1e+30"],
    ),
    "a unit": ("time,y\n2024-01-01,5 kW\n", {}, ["line 2: y is '5 kW'", "finite number"]),
    "constant target": (
        "time,y\n2024-01-01,4\n2024-01-02,4\n",
        {},
        ["y is 4 in every row", "vary"],
    ),
    "missing target": (
        "time,y,x\n2024-01-01,,1\n2024-01-02,NaN,2\n",
        {},
        ["y is missing in every row"],
    ),
    # Times.
    "duplicate times": (
        ROWS + "2024-01-02,9,9\n",
        {},
        ["line 5: time is 2024-01-02, as in", "line 3", "data.id"],
    ),
    "a missing time": (ROWS + ",4,8\n", {}, ["line 5: time is missing"]),
    "no day of a month": (
        "time,y\n2024-02-30,1\n2024-03-01,2\n",
        {},
        ["line 2: time is '2024-02-30'", "2024-01-31"],
    ),
    "an absurd year": (
        ROWS + "9999-12-31,4,8\n",
        {},
        ["line 5: time is '9999-12-31'", "1700 to 2199"],
    ),
    "a number among dates": (ROWS + "45295,4,8\n", {}, ["line 5: time is '45295'"]),
    "day and month": (
        "time,y\n01/02/2024,1\n03/02/2024,2\n",
        {},
        ["day and month or month and day"],
    ),
    "some time zones": (
        "time,y\n2024-01-01T00:00:00Z,1\n2024-01-01T01:00:00,2\n",
        {},
        ["line 3", "without a time zone", "line 2"],
    ),
    "off the step": (
        ROWS + "2024-01-04 07:00,4,8\n",
        {"step": "1D"},
        ["line 5", "no whole number of steps of 1D"],
    ),
    "a tiny step": (ROWS, {"step": "1s"}, ["data.step 1s", "more than 20 rows would be added"]),
    "no step": (ROWS, {"step": "soon"}, ["data.step is 'soon'", "such as 1h"]),
    "a step of times for numbers": (
        "time,y\n1,1\n2,5\n",
        {"step": "1h"},
        ["data.step is '1h'", "a number"],
    ),
    "a step without times": (
        ROWS,
        {"time": None, "step": "1D"},
        ["data.step is set, but data.time is not"],
    ),
    # Sequences and classes.
    "a missing id": (LONG + ",3,1,9\n", {"id": "id"}, ["line 6: id is missing"]),
    "one class": (
        LONG.replace(",1,7", ",0,7").replace("1,8", "0,8"),
        {"id": "id", "problem": "classification"},
        ["y is '0' in every row", "two classes"],
    ),
    "a class that changes": (
        LONG + "b,3,0,9\n",
        {"id": "id", "problem": "classification"},
        ["line 6: y is '0', but '1'", "line 4", "sequence b", "labelling"],
    ),
    "a sequence without a class": (
        LONG + "c,1,,9\n",
        {"id": "id", "problem": "classification"},
        ["line 6: y is missing", "sequence c"],
    ),
    "a text to regress": (
        LONG.replace(",0,", ",low,").replace(",1,7", ",high,7").replace(",1,8", ",high,8"),
        {"id": "id", "problem": "regression"},
        ["line 2: y is 'low'", "number"],
    ),
    "two targets": (
        LONG,
        {"id": "id", "target": ["y", "x"], "problem": "classification"},
        ["data.target", "one column"],
    ),
    "too many categories": (
        "time,y,x\n" + "".join(f"{i},{i},n{i}\n" for i in range(1500)),
        {},
        ["x has 1,500 different texts", "data.inputs"],
    ),
    "files do not say their part": (
        ROWS,
        {"split": "file"},
        ["data.split is file", "train, validation or test"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_met_by_one_message(tmp_path, name):
    content, changes, expected = WRONG[name]
    path = tmp_path / "my.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read(path, **{"problem": "forecasting", **changes})
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.endswith((".", "?"))
    for part in expected:
        assert part in message, message
    about_config = (
        "data.target is empty",
        "data.step is set",
        "data.target is [",
        "data.inputs names",
        "data.step is",
        "data.split is",
    )
    assert str(path) in message or message.startswith(about_config)


def test_there_are_forty_wrong_tables():
    assert len(WRONG) >= 40


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no Parquet", ["is not a readable Parquet file"]),
        (parquet(time=[1, 2], y=[1.0, 2.0])[:60], ["is not a readable Parquet file"]),
        (parquet(time=[], y=[]), ["has no rows"]),
        (parquet(time=[1, 2], y=[1.0, np.inf]), ["row 2: y is inf"]),
        (parquet(time=[1, 2], y=[[1.0], [2.0]]), ["column 'y' holds values of type list"]),
        (parquet(time=[1, 2], y=[b"1", b"2"]), ["column 'y' holds values of type binary"]),
        (parquet(time=[1, 1], y=[1.0, 2.0]), ["row 2: time is 1, as in", "row 1"]),
        (parquet(time=[1, None], y=[1.0, 2.0]), ["row 2: time is missing"]),
    ],
)
def test_a_wrong_parquet_file(tmp_path, content, expected):
    path = tmp_path / "my.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value)
    for part in [str(path), *expected]:
        assert part in str(error.value)


RIGHT = {
    "a byte-order mark": b"\xef\xbb\xbf" + ROWS.encode(),
    "UTF-16": ROWS.encode("utf-16"),
    "Windows line ends": ROWS.replace("\n", "\r\n").encode(),
    "no last line end": ROWS[:-1].encode(),
    "blank lines": ROWS.replace("\n", "\n\n").encode(),
    "spaces": ROWS.replace(",", " , ").encode(),
    "quotes": ROWS.replace("1,5", '"1","5"').encode(),
    "semicolons": ROWS.replace(",", ";").encode(),
    "tabs": ROWS.replace(",", "\t").encode(),
    "bars": ROWS.replace(",", "|").encode(),
    "plus signs and exponents": ROWS.replace("1,5", "+1.,.5e1").encode(),
    "unsorted": b"time,y,x\n2024-01-03,3,7\n2024-01-01,1,5\n2024-01-02,2,6\n",
    "slashes": ROWS.replace("2024-01-0", "2024/01/0").encode(),
    "zones": ROWS.replace(",1,5", "T01:00:00+01:00,1,5")
    .replace(",2,6", "T00:00:00Z,2,6")
    .replace(",3,7", "T00:00:00Z,3,7")
    .encode(),
    "compact dates": ROWS.replace("-", "").encode(),
    "a trailing separator": ROWS.replace("\n", ",\n").encode(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_only_unusual_is_read_right(tmp_path, name):
    path = tmp_path / "my.csv"
    path.write_bytes(RIGHT[name])
    dataset = read(path)
    assert [feature.name for feature in dataset.features] == ["y", "x"]
    np.testing.assert_array_equal(dataset.inputs[0], [[1, 5], [2, 6], [3, 7]])
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "datetime64[ns]")
    np.testing.assert_array_equal(dataset.times[0], days)


def test_days_before_months_where_it_is_clear(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("time;y\n13.01.2024;1,5\n01.02.2024;-2\n")
    dataset = read(path, decimal=",")
    np.testing.assert_array_equal(dataset.inputs[0][:, 0], [1.5, -2])
    days = np.array(["2024-01-13", "2024-02-01"], "datetime64[ns]")
    np.testing.assert_array_equal(dataset.times[0], days)


def test_a_line_is_where_a_row_begins(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text('time,y,note\n1,1,"two\nlines"\n2,2,one\n3,no,one\n')
    with pytest.raises(UserError, match=r"line 5: y is 'no'"):
        read(path)


def test_large_integers_name_sequences_exactly(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("id,time,y\n90071992547409931,1,1\n90071992547409932,1,2\n")
    assert read(path, id="id").names == ("90071992547409931", "90071992547409932")
    table_path = tmp_path / "my.parquet"
    pd.DataFrame({"id": [2**60, 2**60 + 1], "time": [1, 1], "y": [1.0, 2.0]}).to_parquet(table_path)
    assert read(table_path, id="id").names == (str(2**60), str(2**60 + 1))


def test_a_file_beyond_the_memory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "my.csv"
    path.write_text(ROWS * 100)
    monkeypatch.setattr(table.files, "machine_memory", lambda: 1000)
    with pytest.raises(UserError, match="this machine has"):
        read(path)
    path = tmp_path / "my.csv.gz"
    path.write_bytes(gzip.compress(bytes(10**6)))
    monkeypatch.setattr(table.files, "machine_memory", lambda: 10**5)
    with pytest.raises(UserError, match="decompresses to more than"):
        read(path)


def test_files_of_one_folder_have_the_same_columns(tmp_path):
    (tmp_path / "a.csv").write_text("time,y\n1,1\n2,2\n")
    (tmp_path / "b.csv").write_text("time,z\n1,1\n2,2\n")
    with pytest.raises(UserError, match=r"b\.csv has no column 'y', which .*a\.csv has"):
        read(tmp_path)


@pytest.mark.parametrize("path", ["none.csv", "none/*.csv", "."])
def test_there_is_no_such_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is no file|No file matches|holds no table"):
        read(path)
