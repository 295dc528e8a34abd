"""Converters reject subclasses: a subclass may compute another function."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx as flax_nnx

import gru_jax
from gru_jax.interop import equinox, haiku, keras, linen, nnx, safetensors, torch
from tests.assert_trees import assert_equal
from tests.interop.keras_warning import KERAS_WARNING

KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReluGRU(gru_jax.GRUParams):
    """A GRU with a ReLU, as a user might write one."""

    def combine(self, state, projected, affine):
        r, z, n = projected
        r, z, h_n = affine(state, self.w_h, (r, z, self.b_hn))
        z = jax.nn.sigmoid(z)
        return z * state + (1 - z) * jax.nn.relu(n + jax.nn.sigmoid(r) * h_n)


def dump_onnx(params):
    pytest.importorskip("onnx", reason="onnx is not installed")
    return importlib.import_module("gru_jax.interop.onnx").dump(params)


DUMPS = {
    "torch": functools.partial(torch.dump, tensors=False),
    "keras": keras.dump,
    "linen": linen.dump,
    "nnx": nnx.dump,
    "haiku": haiku.dump,
    "equinox": equinox.dump,
    "onnx": dump_onnx,
    "safetensors": safetensors.dump,
}


@pytest.mark.parametrize("as_stack", [False, True], ids=["cell", "stack"])
@pytest.mark.parametrize("name", DUMPS)
def test_a_subclass_of_gru_params_is_not_dumped(name, as_stack):
    reset = "before" if name == "haiku" else "after"
    plain = gru_jax.init(KEY, 3, 4, reset=reset)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    cell = ReluGRU(**fields)
    params = gru_jax.Stack(((cell,),)) if as_stack else cell
    with pytest.raises(TypeError, match=r"GRUParams.*got ReluGRU"):
        DUMPS[name](params)


def test_a_subclass_of_torch_s_gru_is_not_loaded():
    torch_nn = pytest.importorskip("torch", reason="torch is not installed").nn

    class GRU(torch_nn.GRU):
        def forward(self, *inputs):
            return super().forward(*inputs) * 2

    class Encoder(torch_nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.gru = cell

    with pytest.raises(TypeError, match=r"exactly a torch\.nn\.GRU"):
        torch.load(GRU(3, 4))
    with pytest.raises(TypeError, match=r"exactly a torch\.nn\.GRU"):
        torch.load(Encoder(GRU(3, 4)), prefix="gru.")
    plain = torch_nn.GRU(3, 4)
    assert_equal(torch.load(Encoder(plain), prefix="gru."), torch.load(plain))


def test_a_subclass_of_equinox_s_cell_is_not_loaded():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")

    class GRUCell(eqx.nn.GRUCell):
        def __call__(self, x, h, *, key=None):
            return super().__call__(x, h, key=key) * 2

    with pytest.raises(TypeError, match=r"exactly an equinox\.nn\.GRUCell"):
        equinox.load(GRUCell(3, 4, key=KEY))
    equinox.load(eqx.nn.GRUCell(3, 4, key=KEY))


def test_a_subclass_of_nnx_s_cell_is_not_loaded():
    class GRUCell(flax_nnx.GRUCell):
        def __call__(self, carry, inputs):
            carry, _ = super().__call__(carry, inputs)
            return carry * 2, carry

    with pytest.raises(TypeError, match=r"exactly a flax\.nnx\.GRUCell"):
        nnx.load(GRUCell(3, 4, rngs=flax_nnx.Rngs(0)))


@pytest.mark.filterwarnings("ignore:carry_init is provided")
def test_nnx_s_initial_carry_is_not_ignored():
    def cell(carry_init):
        return flax_nnx.GRUCell(3, 4, carry_init=carry_init, rngs=flax_nnx.Rngs(0))

    with pytest.raises(ValueError, match="carry_init is not supported"):
        nnx.load(cell(flax_nnx.initializers.ones_init()))
    assert_equal(nnx.load(cell(flax_nnx.initializers.zeros_init())), nnx.load(cell(None)))


def tanh(x):
    """A user's function with the name of Keras' activation."""
    return jnp.tanh(2 * x)


@pytest.mark.filterwarnings(KERAS_WARNING)
def test_own_classes_and_activations_of_keras_are_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_library = pytest.importorskip("keras", reason="keras is not installed")
    layers = keras_library.layers
    from experiments.interop.frameworks import promotion

    # Bidirectional copies the layer, for which its class must be registered.
    @keras_library.saving.register_keras_serializable("own")
    class GRU(layers.GRU):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(sequences, initial_state, mask, training) * 2

    @keras_library.saving.register_keras_serializable("own")
    class GRUCell(layers.GRUCell):
        def call(self, inputs, states, training=False):
            output, states = super().call(inputs, states, training)
            return output * 2, states

    own_classes = [
        GRU(4),
        GRUCell(4),
        layers.RNN(GRUCell(4)),
        layers.RNN([layers.GRUCell(4), GRUCell(4)]),
        layers.Bidirectional(GRU(4)),
    ]
    own_activations = [
        layers.GRU(4, activation=tanh),
        layers.RNN(layers.GRUCell(4, activation=tanh)),
    ]
    with promotion():
        for layer in own_classes + own_activations:
            layer.build((2, 5, 3))
        model = keras_library.Sequential([layers.Input((5, 3)), GRU(4, name="own")])
        model.save(tmp_path / "own.keras")
    for layer in own_classes:
        with pytest.raises(TypeError, match=r"got .*GRU"):
            keras.load(layer)
    for layer in own_activations:
        with pytest.raises(ValueError, match="activation is a function named tanh"):
            keras.load(layer)
    with pytest.raises(ValueError, match=r"got .*test_exact_classes\.GRU"):
        keras.load(tmp_path / "own.keras", layer="own")
