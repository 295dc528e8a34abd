"""Arrays in files and folders: what is read, and one message for each wrong one."""

import io
import zipfile

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.own_data.config import DataConfig
from experiments.own_data.model import Predictions
from experiments.own_data.written import write_predictions
from tests.experiments.own_data.source_files import (
    LABELS,
    LENGTHS,
    PADDED,
    RNG,
    STEPS,
    inspect,
    raw,
    read,
    write,
)

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.parametrize(
    "arrays", [{"x": PADDED, "lengths": LENGTHS}, {"x": STEPS, "lengths": LENGTHS}]
)
def test_padded_and_ragged_arrays_are_the_same_sequences(arrays):
    dataset = read(write("a.npz", {**arrays, "y": LABELS}))
    assert [feature.name for feature in dataset.features] == ["x 0", "x 1"]
    for values, (begin, end) in zip(dataset.inputs, [(0, 3), (3, 8), (8, 10)], strict=True):
        np.testing.assert_array_equal(values, STEPS[begin:end])
    assert dataset.target.classes == ("a", "b")
    assert dataset.targets.tolist() == [1, 0, 1]


def test_targets_of_steps():
    labels = np.array([0, 1, -1, 0, 0, 1, 1, 0, 1, 1])
    path = write("a.npz", {"x": STEPS, "lengths": LENGTHS, "y": labels})
    dataset = read(path, "labelling")
    assert dataset.target.classes == ("0", "1")
    np.testing.assert_array_equal(
        np.concatenate(dataset.targets), np.where(labels < 0, np.nan, labels)
    )
    padded = np.zeros((3, 6))
    padded[0, :3] = 0.5
    dataset = read(write("b.npz", {"x": PADDED, "lengths": LENGTHS, "y": padded}), "labelling")
    assert dataset.target.classes is None
    assert dataset.targets[0].tolist() == [0.5] * 3


def test_arrays_of_categories_and_names_and_splits():
    colours = np.array([["red", "blue"], ["red", "red"], ["blue", "blue"]])
    path = write(
        "a.npz",
        {
            "size": np.ones((3, 2)),
            "colour": colours,
            "y": np.array([1.5, 2.5, 3.5]),
            "names": np.array(["p", "q", "r"]),
            "split": np.array(["train", "validation", "test"]),
        },
    )
    dataset = read(path, "regression")
    assert [(f.name, f.categories) for f in dataset.features] == [
        ("size", None),
        ("colour", ("blue", "red")),
    ]
    assert dataset.inputs[0].tolist() == [[1, 1], [1, 0]]
    assert dataset.names == ("p", "q", "r")
    assert dataset.split == ("train", "validation", "test")


def test_new_rows_need_no_targets():
    dataset = read(write("a.npz", {"x": PADDED}), targets=False)
    assert dataset.target is None
    assert len(dataset.names) == 3


def test_folders_of_arrays():
    for name, label in (("a", "one"), ("b", "two"), ("c", "one")):
        write(f"data/{label}/{name}.npy", RNG.normal(size=(4, 2)))
    dataset = read("data")
    assert dataset.names == ("one/a.npy", "one/c.npy", "two/b.npy")
    assert dataset.targets.tolist() == [0, 0, 1]
    write(
        "data/labels.csv", "file,age,split\none/a.npy,3,train\none/c.npy,4,val\ntwo/b.npy,5,test\n"
    )
    dataset = read("data", "regression", target=["age"])
    assert dataset.targets.tolist() == [3, 4, 5]
    assert dataset.split == ("train", "validation", "test")


def test_folders_may_name_the_split():
    for split in ("train", "val", "test"):
        for label in ("one", "two"):
            write(f"data/{split}/{label}/x.npy", np.ones((4, 2)))
    dataset = read("data")
    assert dataset.target.classes == ("one", "two")
    assert set(dataset.split) == {"train", "validation", "test"}
    assert inspect("data").data["split"] == "file"


@pytest.mark.parametrize(
    ("arrays", "problem", "split"),
    [
        ({"x": PADDED, "y": LABELS}, "classification", "sequence"),
        ({"x": PADDED, "y": np.array([0.5, 1, 2])}, "regression", "sequence"),
        ({"x": PADDED, "y": np.array([3, 1, 3])}, "classification", "sequence"),
        ({"x": STEPS, "lengths": LENGTHS, "y": np.arange(10) % 2}, "labelling", "sequence"),
        ({"x": STEPS[None], "y": np.arange(10)[None] % 2}, "labelling", "time"),
        ({"x": np.arange(500) % 7}, "next-token", "time"),
        (
            {"x": PADDED, "y": LABELS, "split": np.array(["train", "train", "test"])},
            "classification",
            "file",
        ),
    ],
)
def test_the_problem_is_guessed(arrays, problem, split):
    proposal = inspect(write("a.npz", arrays))
    assert (proposal.problem, proposal.data["split"]) == (problem, split)
    assert {"problem", "data.path", "data.split"} <= set(proposal.reasons)


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def header(shape, dtype="<f8"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return stream.getvalue()


GOOD = {"x": PADDED, "y": LABELS}
WRONG_ARRAYS = [
    (b"no archive", {}, "a.npz is not an .npz file"),
    (zipped(x=b"no array"), {}, "x is not an array in NumPy's format"),
    (zipped(x=objects()), {}, "x holds Python objects, which are not read"),
    (zipped(x=header((10**12,))), {}, "x is truncated"),
    (zipped(x=header((-3, 2))), {}, "x is truncated"),
    (zipped(x=header((4,), "<c16")), {}, "x has the dtype complex128"),
    (zipped(), {}, "holds no arrays"),
    ({"y": LABELS}, {}, "has no inputs"),
    ({"x": PADDED}, {}, "has no array y of targets"),
    ({"x": PADDED, "age": LABELS}, {"inputs": ["z"]}, "has no array z; its arrays are x, age"),
    ({**GOOD, "lengths": [3, 7, 2]}, {}, "x has 6 steps, but sequence 1 has the length 7"),
    ({**GOOD, "lengths": [3, 0, 2]}, {}, r"lengths\[1\] is 0, but should be 1 or more"),
    ({**GOOD, "lengths": [3.0, 1.0, 2.0]}, {}, "lengths has the shape"),
    ({**GOOD, "lengths": [1, 2]}, {}, r"x has the shape \(3, 6, 2\), but should have 2 sequences"),
    ({"x": PADDED, "y": LABELS[:2]}, {}, r"y has the shape \(2,\), but should have one value"),
    ({"x": PADDED, "y": ["a", "a", "a"]}, {}, "y is a everywhere"),
    ({"x": PADDED, "y": [0.5, 1, 2]}, {}, "y is 0.5 at index 0, but classes should be"),
    ({"x": PADDED, "y": [0, np.nan, 1]}, {}, "y is NaN at index 1"),
    ({"x": PADDED + np.inf, "y": LABELS}, {}, r"x is infinite at \(0, 0\)"),
    ({"x": np.zeros((3, 2, 2, 2)), "y": LABELS}, {}, r"x has the shape \(3, 2, 2, 2\)"),
    ({"x": np.zeros((3, 0)), "y": LABELS}, {}, r"x has the shape \(3, 0\)"),
    ({**GOOD, "names": ["p", "p", "q"]}, {}, "has the name p more than once"),
    ({**GOOD, "split": ["train", "later", "test"]}, {}, "one is later"),
]


@pytest.mark.parametrize(("content", "data", "message"), WRONG_ARRAYS)
def test_wrong_arrays(content, data, message):
    path = write("a.npz", content) if isinstance(content, dict) else raw("a.npz", content)
    with pytest.raises(UserError, match=message):
        read(path, **data)


@pytest.mark.parametrize(
    ("arrays", "problem", "message"),
    [
        (
            {"x": PADDED, "y": [0.5, np.nan, 1]},
            "regression",
            "y is NaN at index 1. A sequence needs",
        ),
        ({"x": PADDED, "y": ["a", "b", "c"]}, "regression", "y has the dtype <U1"),
        (
            {"x": PADDED, "y": np.ones((3, 4))},
            "labelling",
            "y has 4 steps, but sequence 0 has the length 6",
        ),
        ({"x": PADDED, "y": np.ones(4)}, "labelling", "a value for each of 18 steps"),
        ({"x": np.array([1, -2, 3])}, "next-token", "x has the id -2"),
        ({"x": np.array([1.0, 2.5])}, "next-token", "ids should be integers"),
        ({"x": np.array([1, 2]), "z": np.array([1, 2])}, "next-token", "takes one array of ids"),
    ],
)
def test_arrays_that_do_not_fit_a_problem(arrays, problem, message):
    with pytest.raises(UserError, match=message):
        read(write("a.npz", arrays), problem)


def test_arrays_without_a_target_are_not_guessed():
    with pytest.raises(UserError, match="Name the one to predict by --target"):
        inspect(write("a.npz", {"x": PADDED, "age": LABELS}))


def two_folders(one, two):
    write("data/a/one.npy", one)
    write("data/b/two.npy", two)
    return "data"


def labels(text):
    write("data/one.npy", np.ones((3, 2)))
    write("data/labels.csv", text)
    return "data"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "nothing", "nothing cannot be read: No such file"),
        (lambda: two_folders(np.ones((3, 2)), np.ones((3, 4))), "two.npy has 4 features"),
        (lambda: two_folders(np.ones((3, 2, 2)), np.ones((3, 2))), r"has the shape \(3, 2, 2\)"),
        (lambda: labels("name,class\none.npy,a\n"), "has no column file"),
        (lambda: labels("file,class\ntwo.npy,a\n"), "line 2: there is no file two.npy"),
        (lambda: labels("file,class\none.npy,a\none.npy,b\n"), "line 3: the file one.npy is named"),
        (lambda: labels("file,class\none.npy,\n"), "line 2: class is empty"),
        (lambda: labels("file,class\none.npy\n"), "line 2 has 1 values"),
        (lambda: labels("file\none.npy\n"), "has no column besides file"),
        (lambda: labels("file,class,split\none.npy,a,soon\n"), "split is 'soon'"),
        (lambda: labels("file,class\none.npy,a\n"), "class|everywhere"),
    ],
)
def test_wrong_folders(make, message):
    with pytest.raises(UserError, match=message):
        read(make())


def test_a_folder_without_classes_says_what_to_do():
    write("data/one.npy", np.ones((3, 2)))
    with pytest.raises(
        UserError, match=r"nothing is said of one\.npy\. Move the files into one sub"
    ):
        read("data")


def test_predictions_are_a_table(workplace):
    dataset = read(write("a.npz", {"x": STEPS, "lengths": LENGTHS}), targets=False)
    columns = {"y": tuple(np.arange(length) / 2 for length in LENGTHS)}
    write_predictions(
        DataConfig(path="a.npz"), dataset, Predictions(columns, "step"), workplace / "out.csv"
    )
    lines = (workplace / "out.csv").read_text().splitlines()
    assert lines[:3] == ["sequence,step,y", "0,0,0.0", "0,1,0.5"]
    assert len(lines) == 11
