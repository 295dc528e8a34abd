"""Data of functions and of Hugging Face: what is read, and one message for each wrong one."""

import importlib.util
import sys

import pytest

from experiments.errors import UserError
from tests.experiments.own_data.source_files import inspect, read

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def module(workplace):
    """Writes a module of one's own."""

    def write_module(text):
        (workplace / "my_data.py").write_text(f"import numpy as np\n{text}")
        sys.modules.pop("my_data", None)
        importlib.invalidate_caches()

    before = list(sys.path)
    yield write_module
    sys.path[:] = before
    sys.modules.pop("my_data", None)


def test_functions(module):
    module(
        "def load(targets):\n"
        "    x = [np.ones((n, 2)) for n in (3, 4)]\n"
        "    return {'x': x, **({'y': ['a', 'b']} if targets else {})}"
    )
    dataset = read("my_data:load", format="function")
    assert [len(values) for values in dataset.inputs] == [3, 4]
    assert dataset.target.classes == ("a", "b")
    assert read("my_data:load", format="function", targets=False).target is None
    assert inspect("my_data:load", "function").problem == "classification"


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("my_data", "", "should be like my_package.my_data:load"),
        ("no_data:load", "", "there is no module no_data"),
        ("my_data:load", "import no_such_thing", "there is no module no_such_thing"),
        ("my_data:load", "x = 1", "my_data has no function load"),
        ("my_data:load", "def load(): return 3", "returned int, but should return a dict"),
        (
            "my_data:load",
            "def load(): return {'x': [np.ones(3), np.ones((2, 5))], 'y': [0, 1]}",
            "has 5 features in sequence 1, but 1",
        ),
        ("my_data:load", "def load(): return {'x': np.array([{}]), 'y': [0]}", "Python objects"),
    ],
)
def test_wrong_functions(module, path, text, message):
    module(text)
    with pytest.raises(UserError, match=message):
        read(path, format="function")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not there")
def test_folders_that_datasets_writes(workplace):
    import datasets

    label = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        {
            "x": datasets.Sequence(datasets.Value("float32")),
            "label": label,
            "note": datasets.Value("string"),
        }
    )
    rows = {"x": [[1.0, 2.0], [3.0]], "label": [0, 1], "note": ["p", "q"]}
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(workplace / "saved")
    proposal = inspect("saved", "huggingface")
    assert (proposal.problem, proposal.data["split"]) == ("classification", "file")
    dataset = read("saved", format="huggingface", target=["label"], inputs=["x"])
    assert dataset.split == ("train", "train", "test", "test")
    assert dataset.target.classes == ("cat", "dog")
    assert [len(values) for values in dataset.inputs] == [2, 1, 2, 1]
    with pytest.raises(UserError, match="has no column age; its columns are x, label, note"):
        read("saved", format="huggingface", target=["age"])
    texts = read("saved", "next-token", "huggingface", inputs=["note"])
    with pytest.raises(UserError, match="cannot be loaded by datasets"):
        read("nothing", format="huggingface")
    assert texts.split == ("train", "train", "test", "test")
    assert texts.features[0].categories == ("p", "q")
