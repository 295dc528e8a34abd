"""Keras: layers, weight lists, files and errors."""

import itertools
import os

import jax
import numpy as np
import pytest

import gru_jax
from experiments.interop.frameworks import promotion
from experiments.interop.models import Model
from gru_jax.interop import keras as interop
from gru_jax.interop.files import FileError
from tests.assert_trees import assert_equal
from tests.interop.keras_warning import KERAS_WARNING

pytestmark = pytest.mark.filterwarnings(KERAS_WARNING)


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras", reason="keras is not installed")


@pytest.fixture(scope="module")
def model(keras):
    """A model of layers of all kinds, with random weights."""
    layers = keras.layers
    with promotion():
        model = keras.Sequential(
            [
                keras.Input((5, 3)),
                layers.Bidirectional(layers.GRU(4, return_sequences=True), "ave", name="both"),
                layers.RNN(
                    [layers.GRUCell(5), layers.GRUCell(2, reset_after=False)],
                    return_sequences=True,
                    name="cells",
                ),
                keras.Sequential([layers.GRU(3, return_sequences=True, name="inner")], name="in"),
                layers.GRU(6, reset_after=False, name="last", dropout=0.1, recurrent_dropout=0.1),
                layers.Dense(2, name="head"),
            ]
        )
        rng = np.random.default_rng(0)
        for layer in model.layers:
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights([rng.uniform(-1, 1, shape) for shape in shapes])
    return model


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return folder


GROUPS = {"both": "bidirectional", "cells": "rnn", "in/inner": "sequential/gru", "last": "gru"}


@pytest.mark.parametrize("name", GROUPS)
def test_a_file_is_what_the_layer_is(model, files, name):
    layer = model.get_layer(name.split("/")[0])
    params = interop.load(layer.layers[0] if "/" in name else layer)
    assert_equal(interop.load(files / "model.keras", layer=name), params)
    merge = {"merge": "mean"} if name == "both" else {}
    loaded = interop.load(files / "model.weights.h5", layer=GROUPS[name], **merge)
    assert_equal(loaded, params)
    dumped = interop.dump(params)
    weights = list(itertools.chain(*dumped)) if isinstance(params, gru_jax.Stack) else dumped
    layer.set_weights(weights)
    assert_equal(interop.load(layer.layers[0] if "/" in name else layer), params)


def test_a_model_of_any_graph_and_precision(keras, tmp_path):
    """Layers are told apart by their order in the model, whatever their names."""
    layers = keras.layers
    options = {"recurrent_initializer": "glorot_uniform", "dtype": "bfloat16"}
    with promotion():
        given = keras.Input((5, 3))
        cell = layers.GRUCell(2, **options)
        both = layers.Bidirectional(layers.RNN(cell, return_sequences=True), name="b")(given)
        last = layers.GRU(2, name="a", **options)(layers.GRU(2, return_sequences=True)(both))
        model = keras.Model(given, last)
        model.save(tmp_path / "model.keras")
        model.save_weights(tmp_path / "model.weights.h5")
    for name, group in {"b": "bidirectional", "a": "gru_1"}.items():
        params = interop.load(model.get_layer(name))
        assert jax.tree.leaves(params)[0].dtype == "bfloat16"
        assert_equal(interop.load(tmp_path / "model.keras", layer=name), params)
        assert_equal(interop.load(tmp_path / "model.weights.h5", layer=group), params)


def test_layers_after_each_other_are_a_stack(keras, model):
    layers = keras.layers
    with promotion():
        pair = keras.Sequential(
            [keras.Input((5, 3)), layers.GRU(4, return_sequences=True), layers.GRU(4)]
        ).layers
    stack = interop.load(pair)
    assert_equal(stack.layers[1][0], interop.load(pair[1]))
    with pytest.raises(ValueError, match="return_sequences=False"):
        interop.load([pair[1], pair[1]])


def test_cells_compute_the_same(model):
    """Two cells within one RNN, of both equations."""
    layer = model.get_layer("cells")
    xs = np.random.default_rng(1).uniform(-1, 1, (2, 5, 4)).astype("f")
    with promotion():
        expected = np.asarray(layer(xs))
    ys = gru_jax.unroll_stack(interop.load(layer), jax.numpy.asarray(xs.swapaxes(0, 1)))[1]
    np.testing.assert_allclose(np.swapaxes(ys, 0, 1), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["test_correctness0", "test_pass_initial_state", "test_pass_return_state", "test_masking"],
)
def test_keras_s_own_samples_of_its_layer(keras, monkeypatch, name):
    """Every layer that Keras' own tests of the GRU call, as it is called there."""
    gru_test = pytest.importorskip("keras.src.layers.rnn.gru_test")
    called = []
    call = gru_test.layers.GRU.__call__

    def recorded(layer, sequence, **options):
        output = call(layer, sequence, **options)
        called.append((layer, sequence, options, output))
        return output

    monkeypatch.setattr(gru_test.layers.GRU, "__call__", recorded)
    with promotion():
        result = gru_test.GRUTest(name).run()
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.failures + result.errors

    compared = 0
    for layer, sequence, options, output in called:
        if layer.go_backwards or layer.unroll:
            with pytest.raises(ValueError, match=r"go_backwards=True|unroll=True"):
                interop.load(layer)
            continue
        h0, mask = options.get("initial_state"), options.get("mask")
        last, ys = gru_jax.unroll(
            interop.load(layer),
            jax.numpy.asarray(sequence.swapaxes(0, 1)),
            None if h0 is None else jax.numpy.asarray(h0),
            mask=None if mask is None else jax.numpy.asarray(mask.swapaxes(0, 1)),
        )
        if layer.return_sequences:
            # Where Keras repeats the last output at a masked step, gru_jax gives zero.
            read = np.ones(sequence.shape[:2], bool) if mask is None else mask
            got, expected = np.swapaxes(ys, 0, 1)[read], np.asarray(output)[read]
        else:
            got, expected = last, output[0] if layer.return_state else output
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
        compared += 1
    assert compared


def test_unsupported_options_are_named(keras):
    layers = keras.layers
    unsupported = {
        "activation='relu'": layers.GRU(3, activation="relu"),
        "recurrent_activation='hard_sigmoid'": layers.GRU(3, recurrent_activation="hard_sigmoid"),
        "go_backwards=True": layers.GRU(3, go_backwards=True),
        "stateful=True": layers.RNN(layers.GRUCell(3), stateful=True),
        "unroll=True": layers.GRU(3, unroll=True),
        "merge_mode=None": layers.Bidirectional(layers.GRU(3), merge_mode=None),
        "got LSTM": layers.LSTM(3),
        "got RNN of LSTMCell": layers.RNN(layers.LSTMCell(3)),
        "among its cells": layers.RNN([layers.GRUCell(3), layers.LSTMCell(3)]),
        "RNN of several cells": layers.Bidirectional(
            layers.RNN([layers.GRUCell(3), layers.GRUCell(3)])
        ),
    }
    for expected, layer in unsupported.items():
        with promotion():
            layer.build((2, 5, 3))
        with pytest.raises((ValueError, TypeError), match=expected):
            interop.load(layer)
    with pytest.raises(ValueError, match="not built"):
        interop.load(layers.GRU(3))


def test_a_merge_other_than_the_layers_is_an_error(keras):
    layer = keras.layers.Bidirectional(keras.layers.GRU(3), merge_mode="sum")
    with promotion():
        layer.build((2, 5, 3))
    assert interop.load(layer, merge="sum").merge == "sum"
    with pytest.raises(ValueError, match=r"merge='concat'.* merge_mode='sum'"):
        interop.load(layer, merge="concat")


def test_a_model_that_masks_is_rejected(keras, tmp_path):
    layers = keras.layers
    with promotion():
        model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), layers.GRU(4, name="gru")])
        model.save(tmp_path / "masked.keras")
        model.save_weights(tmp_path / "masked.weights.h5")
    with pytest.raises(FileError, match=r"masked\.keras: .*Masking.*masks steps"):
        interop.load(tmp_path / "masked.keras")
    assert_equal(interop.load(tmp_path / "masked.weights.h5"), interop.load(model.get_layer("gru")))


def test_a_layer_of_a_file_is_chosen_by_name(files):
    for name, layers in (("model.keras", "both"), ("model.weights.h5", "bidirectional")):
        with pytest.raises(FileError, match=rf"{name}: pass layer=.*'{layers}'"):
            interop.load(files / name)
        with pytest.raises(FileError, match=f"{name}: the file has no layer 'gruu'"):
            interop.load(files / name, layer="gruu")
    with pytest.raises(FileError, match="got Dense"):
        interop.load(files / "model.keras", layer="head")
    with pytest.raises(ValueError, match="layer is for files"):
        interop.load([], layer="head")


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ([np.zeros((3, 12), "f"), np.zeros((4, 12), "f")], {}, "pass reset_after"),
        ([np.zeros((3, 12), "f")], {}, "expected 2 or 3 weights"),
        ([np.zeros((3, 12), "f")] * 6, {}, "two directions or of two cells"),
        ([np.zeros((3, 16), "f"), np.zeros((4, 16), "f")], {}, "LSTM"),
        (interop.dump(Model().init(0)), {"reset_after": False}, r"bias has shape \(2, 15\)"),
        ([interop.dump(Model().init(0))] * 2, {}, "layer 1 reads 3 features, layer 0 gives 5"),
        ([], {}, "at least one layer"),
    ],
)
def test_wrong_weights_are_named(source, options, expected):
    with pytest.raises(ValueError, match=expected):
        interop.load(source, **options)


def test_directions_of_a_layer_obey_one_equation():
    after, before = Model().init(0), Model(reset="before").init(0)
    with pytest.raises(ValueError, match="one equation"):
        interop.dump(gru_jax.Stack(((after, before),)))
