"""gru_jax's own files: loading inverts dumping, and the metadata describe the model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import gru_jax
from experiments.interop.models import Model
from gru_jax.interop import safetensors as interop
from gru_jax.interop.files import FileError
from tests.assert_trees import assert_equal

KEY = jax.random.key(0)


def randomize(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-1, 1, leaf.shape)).astype(leaf.dtype), tree
    )


MODELS = {
    "gru-after": lambda: Model().init(0),
    "gru-before": lambda: Model(reset="before", bias=False).init(0),
    "gru-learned-h0-bfloat16": lambda: randomize(
        gru_jax.init(KEY, 3, 4, learned_h0=True, dtype=jnp.bfloat16)
    ),
    "lstm": lambda: randomize(gru_jax.init_lstm(KEY, 3, 4, learned_h0=True)),
    "rnn": lambda: randomize(gru_jax.init_rnn(KEY, 3, 4)),
    "stack": lambda: Model(layers=2, directions=2, merge="sum").init(0),
    "stack-residual": lambda: randomize(
        gru_jax.init_stack(KEY, 4, 4, num_layers=3, residual=True, init_cell=gru_jax.init_lstm)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_loading_inverts_dumping(name, tmp_path):
    params = MODELS[name]()
    data = interop.dump(params)
    assert_equal(interop.load(data), params)
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert_equal(interop.load(path), params)


@jax.enable_x64(True)
def test_float64_is_kept():
    params = Model(dtype="float64").init(0)
    assert_equal(interop.load(interop.dump(params)), params)


def test_a_file_says_what_it_holds(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(interop.dump(MODELS["gru-before"]()))
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["version"]) == ("gru_jax", "1")
    assert "n = tanh(x W_n + b_n + (r * h) U_n)" in metadata["equation"]
    model = json.loads(metadata["model"])
    assert (model["cell"], model["reset"]) == ("gru", "before")
    assert (model["input_size"], model["hidden_size"]) == (3, 5)
    assert model["arrays"] == {"w_x": "float32", "w_h": "float32"}


def altered(change, arrays=None):
    """A file whose metadata were changed."""
    data = interop.dump(MODELS["stack"]())
    (size,) = np.frombuffer(data[:8], "<u8")
    metadata = json.loads(data[8 : 8 + int(size)])["__metadata__"]
    model = json.loads(metadata["model"])
    change(metadata, model)
    if metadata.get("model") is not None:
        metadata["model"] = json.dumps(model)
    tensors = safetensors.numpy.load(data) | (arrays or {})
    return safetensors.numpy.save(tensors, {k: v for k, v in metadata.items() if v is not None})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda metadata, model: metadata.update(format="pt"),
            "format 'pt'.*interop.torch",
        ),
        (lambda metadata, model: metadata.update(version="2"), "version is '2'"),
        (lambda metadata, model: metadata.update(model=None), "is not valid JSON"),
        (lambda metadata, model: model.update(merge="max"), "merge must be one of.*'max'"),
        (lambda metadata, model: model.update(residual=1), "residual is 1"),
        (lambda metadata, model: model.update(layers=[]), "at least one layer"),
        (lambda metadata, model: model["layers"].pop(), "do not name layers.1"),
        (lambda metadata, model: model["layers"].append([]), "must hold 1 or 2 cells"),
        (lambda metadata, model: model["layers"][0][0].pop("reset"), "'reset'"),
        (lambda metadata, model: model["layers"][0][0].update(cell="other"), "'other'"),
        (lambda metadata, model: model["layers"][0][0].update(reset="never"), "reset must be"),
        (lambda metadata, model: model["layers"][0][0].update(hidden_size=6), "hidden_size is 5"),
        (
            lambda metadata, model: model["layers"][0][0]["arrays"].update(w_x="float64"),
            "metadata say float64",
        ),
        (lambda metadata, model: model["layers"][0][0]["arrays"].pop("w_x"), "w_x"),
        (lambda metadata, model: model["layers"][0][0]["arrays"].update(w="float32"), "0.0.w"),
    ],
)
def test_metadata_that_do_not_fit_are_named(change, expected):
    with pytest.raises(ValueError, match=expected):
        interop.load(altered(change))


def test_arrays_without_a_description_are_rejected():
    with pytest.raises(ValueError, match="do not name more"):
        interop.load(altered(lambda metadata, model: None, {"more": np.zeros(3, "f")}))


def test_other_arguments_are_rejected(tmp_path):
    with pytest.raises(FileError, match=r"absent\.safetensors: No such file"):
        interop.load(tmp_path / "absent.safetensors")
    with pytest.raises(TypeError, match="got list"):
        interop.load([])
    with pytest.raises(TypeError, match=r"GRUParams.*got Mine"):
        interop.dump(Mine())
    with pytest.raises(ValueError, match=r"no valid \.safetensors"):
        interop.load(b"")


class Mine(gru_jax.Cell):
    pass
