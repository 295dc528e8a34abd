"""No option of another framework's recurrent layer is ignored in silence: see the table."""

# The frameworks come with the extra `interop`; those that are not installed are skipped.
# pyright: reportMissingImports=false

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from experiments.interop.frameworks import promotion
from gru_jax.interop import equinox, haiku, keras, linen, nnx, torch
from gru_jax.interop.gate_layout import check_unknown_options
from tests.assert_trees import assert_equal
from tests.docs.test_doc_tables import tables_of
from tests.interop.framework_options import FATES, KERAS_LAYER, TABLE, arguments_of, options_of
from tests.interop.keras_warning import KERAS_WARNING
from tests.slow import slow

pytestmark = [
    pytest.mark.filterwarnings(KERAS_WARNING),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last"),
    pytest.mark.filterwarnings("ignore:carry_init is provided"),
    pytest.mark.filterwarnings("ignore:keep_rngs argument is deprecated"),
]
DTYPES = {"mixed_bfloat16": jnp.bfloat16, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
XS = np.random.default_rng(0).uniform(-1, 1, (5, 2, 3)).astype(np.float32)
KEY = jax.random.key(0)


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def fill(shapes):
    """The same random weights for the same shapes."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(leaf.dtype), shapes)


class Torch:
    """A module of torch.nn."""

    def __init__(self, name):
        self.nn = library("torch").nn
        self.name = name

    def arguments(self):
        constructor = self.nn.RNNBase if self.name == "GRU" else self.nn.GRUCell
        return arguments_of(constructor) - {"mode"}

    def build(self, **options):
        options = {"input_size": 3, "hidden_size": 5} | options
        if "dtype" in options:
            options["dtype"] = getattr(library("torch"), options["dtype"])
        module = getattr(self.nn, self.name)(**options).eval()
        arrays = fill({name: value.numpy() for name, value in module.state_dict().items()})
        module.load_state_dict({n: library("torch").from_numpy(v) for n, v in arrays.items()})
        return module

    load = staticmethod(torch.load)

    def outputs(self, module, dtype):
        del dtype
        parameters = list(module.parameters())
        xs = library("torch").from_numpy(XS).to(parameters[0].dtype)
        if self.name == "GRUCell":
            return _by_step(module, xs, lambda h: h.detach().numpy())
        first = xs.transpose(0, 1) if module.batch_first else xs
        ys = module(first)[0].detach().numpy()
        return ys.swapaxes(0, 1) if module.batch_first else ys


def _by_step(cell, xs, to_numpy):
    h, ys = None, []
    for x in xs:
        h = cell(x, h)
        ys.append(to_numpy(h))
    return np.stack(ys)


class Keras:
    """A layer of keras.layers."""

    def __init__(self, name):
        import os

        os.environ.setdefault("KERAS_BACKEND", "jax")
        self.layers = library("keras").layers
        self.name = name

    def arguments(self):
        return arguments_of(getattr(self.layers, self.name))

    def build(self, **options):
        with promotion():
            layer = self._layer(**options)
            layer.build((2, 5, 3))
            layer.set_weights(fill(layer.get_weights()))
        return layer

    def _layer(self, **options):
        layers = self.layers
        if self.name == "GRUCell":
            return layers.GRUCell(**({"units": 5} | options))
        if self.name == "Bidirectional":
            units = options.pop("layer", 5)
            gru = layers.GRU(units, return_sequences=True, dtype=options.get("dtype"))
            if "backward_layer" in options:
                options["backward_layer"] = layers.GRU(
                    options["backward_layer"], return_sequences=True, go_backwards=True
                )
                gru = layers.GRU(4, return_sequences=True)
            return layers.Bidirectional(gru, **options)
        options = {"return_sequences": True, "return_state": True} | options
        if self.name == "GRU":
            return layers.GRU(**({"units": 5} | options))
        cell = layers.GRUCell(options.pop("cell", 5), dtype=options.get("dtype"))
        return layers.RNN(cell, **options)

    load = staticmethod(keras.load)

    def outputs(self, layer, dtype):
        del dtype
        with promotion():
            if self.name == "GRUCell":
                zeros = jnp.zeros((2, layer.units), layer.compute_dtype)
                return _by_step(
                    lambda x, h: layer(x, zeros if h is None else h)[0], jnp.asarray(XS), np.asarray
                )
            result = layer(jnp.asarray(XS.swapaxes(0, 1)))
        ys = np.asarray(result[0] if isinstance(result, (list, tuple)) else result)
        return ys.swapaxes(0, 1) if ys.ndim == 3 else ys


class Flax:
    """A GRUCell of flax.linen or flax.nnx."""

    def __init__(self, module):
        self.library = importlib.import_module(module)
        self.is_linen = module == "flax.linen"
        self.load = (linen if self.is_linen else nnx).load

    def arguments(self):
        return arguments_of(self.library.GRUCell)

    def build(self, **options):
        options = {k: DTYPES[v] if k.endswith("dtype") and v in DTYPES else v
                   for k, v in options.items()}  # fmt: skip
        with promotion():
            if self.is_linen:
                cell = self.library.GRUCell(**({"features": 5} | options))
                zeros = jnp.zeros((1, cell.features)), jnp.zeros((1, 3))
                return cell.bind(fill(jax.eval_shape(cell.init, KEY, *zeros)))
            rngs = self.library.Rngs(options.pop("rngs", 0))
            sizes = {"in_features": 3, "hidden_features": 5}
            if "param_dtype" in options:
                # An orthogonal float16 matrix cannot be sampled.
                sizes["recurrent_kernel_init"] = jax.nn.initializers.zeros
            cell = self.library.GRUCell(**(sizes | options), rngs=rngs)
            self.library.update(cell, fill(self.library.state(cell, self.library.Param)))
        return cell

    def outputs(self, cell, dtype):
        with promotion():
            hidden = cell.features if self.is_linen else cell.hidden_features
            zeros = jnp.zeros((2, hidden))
            step = lambda x, h: cell(zeros if h is None else h, x)[0]  # noqa: E731
            return _by_step(step, jnp.asarray(XS, dtype), np.asarray)


class Haiku:
    """haiku.GRU."""

    def __init__(self, _):
        self.library = library("haiku")

    def arguments(self):
        return arguments_of(self.library.GRU)

    def build(self, **options):
        self.options = {"hidden_size": 5} | options
        self.run = self.library.without_apply_rng(
            self.library.transform(lambda x, h: self.library.GRU(**self.options)(x, h)[1])
        )
        zeros = jnp.zeros((2, 3)), jnp.zeros((2, self.options["hidden_size"]))
        with promotion():
            return fill(jax.eval_shape(self.run.init, KEY, *zeros))

    load = staticmethod(haiku.load)

    def outputs(self, params, dtype):
        del dtype
        zeros = jnp.zeros((2, self.options["hidden_size"]))
        with promotion():
            step = lambda x, h: self.run.apply(params, x, zeros if h is None else h)  # noqa: E731
            return _by_step(step, jnp.asarray(XS), np.asarray)


class Equinox:
    """equinox.nn.GRUCell."""

    def __init__(self, _):
        self.library = library("equinox")

    def arguments(self):
        return arguments_of(self.library.nn.GRUCell)

    def build(self, **options):
        if "dtype" in options:
            options["dtype"] = DTYPES[options["dtype"]]
        options["key"] = jax.random.key(options.get("key", 0))
        cell = self.library.nn.GRUCell(**({"input_size": 3, "hidden_size": 5} | options))
        return jax.tree.map(jnp.asarray, fill(cell))

    load = staticmethod(equinox.load)

    def outputs(self, cell, dtype):
        zeros = jnp.zeros((2, cell.hidden_size), dtype)
        with promotion():
            step = lambda x, h: jax.vmap(cell)(x, zeros if h is None else h)  # noqa: E731
            return _by_step(step, jnp.asarray(XS, dtype), np.asarray)


class Onnx:
    """A GRU node in onnxruntime."""

    def __init__(self, _):
        self.onnx, self.runtime = library("onnx"), library("onnxruntime")
        self.load = importlib.import_module("gru_jax.interop.onnx").load

    def arguments(self):
        return set(self.onnx.defs.get_schema("GRU").attributes)

    def build(self, **options):
        options = {"hidden_size": 5} | options
        hidden = options["hidden_size"]
        directions = 1 + (options.get("direction") == "bidirectional")
        shapes = [(3 * hidden, 3), (3 * hidden, hidden), (6 * hidden,)]
        shapes = [jax.ShapeDtypeStruct((directions, *each), np.float32) for each in shapes]
        arrays = dict(zip("WRB", fill(shapes), strict=True))
        helper = self.onnx.helper
        node = helper.make_node("GRU", ["X", *arrays], ["Y"], **options)
        values = [
            helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None)
            for name in ("X", "Y")
        ]
        constants = [self.onnx.numpy_helper.from_array(value, n) for n, value in arrays.items()]
        graph = helper.make_graph([node], "gru", values[:1], values[1:], constants)
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8)

    def outputs(self, model, dtype):
        del dtype
        if any(each.name == "layout" for each in model.graph.node[0].attribute):
            # onnxruntime does not implement it.
            return None
        session = self.runtime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (ys,) = session.run(None, {"X": XS})
        return np.concatenate([ys[:, at] for at in range(ys.shape[1])], axis=-1)


MAKERS = {"torch": Torch, "keras": Keras, "haiku": Haiku, "equinox": Equinox, "onnx": Onnx}


def framework(layer):
    module, _, name = layer.rpartition(".")
    if module.startswith("flax."):
        return Flax(module)
    return MAKERS[module.partition(".")[0]](name)


CASES = [
    (layer, option) if layer.startswith("flax") and fate == "rejected" else slow(layer, option)
    for layer in TABLE
    for option, (fate, _) in options_of(layer).items()
]


@pytest.mark.parametrize(
    "layer", [each if each.startswith("flax") else slow(each) for each in TABLE]
)
def test_the_table_has_every_option(layer):
    """So an option that a new version adds is noticed; an older version may lack some."""
    known = set(options_of(layer))
    assert framework(layer).arguments() <= known
    if layer.startswith("keras"):
        known -= KERAS_LAYER
    assert known & framework(layer).arguments()


@pytest.mark.parametrize(("layer", "option"), CASES)
def test_no_option_is_ignored(layer, option):
    fate, value = options_of(layer)[option]
    theirs = framework(layer)
    if option not in theirs.arguments() | KERAS_LAYER:
        pytest.skip(f"this version of {layer} has no {option}")
    if fate == "rejected":
        with pytest.raises((TypeError, ValueError), match=option):
            theirs.load(theirs.build(**{option: value}))
        return
    default = theirs.load(theirs.build())
    source = theirs.build(**{option: value})
    params = theirs.load(source)
    dtype = DTYPES.get(value if option.endswith("dtype") else "", jnp.float32)
    changed = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)] != [
        jnp.shape(leaf) for leaf in jax.tree.leaves(default)
    ] or jax.tree.structure(params) != jax.tree.structure(default)
    if fate != "loaded":
        assert_equal(params, default)
    elif option not in ("input_size", "in_features") and not option.endswith("dtype"):
        assert changed
    expected = theirs.outputs(source, dtype)
    run = gru_jax.unroll_stack if isinstance(params, gru_jax.Stack) else gru_jax.unroll
    last, ys = run(params, jnp.asarray(XS, dtype))
    if expected is not None:
        got = np.asarray(last if expected.ndim == 2 else ys, np.float32)
        tolerance = 2e-6 if dtype == jnp.float32 else 5e-2
        np.testing.assert_allclose(got, np.asarray(expected, np.float32), rtol=0, atol=tolerance)


def test_linen_cells_must_be_bound():
    from flax import linen as nn

    with pytest.raises(ValueError, match=r"pass cell\.bind"):
        linen.load(nn.GRUCell(4))

    class GRUCell(nn.GRUCell):
        pass

    with pytest.raises(TypeError, match="a mapping; got GRUCell"):
        linen.load(GRUCell(4))


def test_an_option_of_a_later_version_is_rejected():
    """Unless it is off, or at its default."""

    class Later:
        def __init__(self, units, gate_scale=None):
            self.units, self.gate_scale = units, gate_scale

    check_unknown_options(Later(3), Later, {"units"})
    with pytest.raises(ValueError, match="gate_scale of Later is not supported"):
        check_unknown_options(Later(3, 2.0), Later, {"units"})

    weights = fill([jax.ShapeDtypeStruct(each, np.float32) for each in ((3, 12), (4, 12))])

    class GRU:
        """A layer of Keras, as far as a description goes."""

        def __init__(self, **options):
            self.options = options

        def get_config(self):
            return {"units": 4, "use_bias": False, "reset_after": True, **self.options}

        def get_weights(self):
            return weights

    with pytest.raises(ValueError, match=r"gate_scale=2\.0 of GRU is not known"):
        keras.load(GRU(gate_scale=2.0))


def test_the_documentation_shows_the_table():
    text = (Path(__file__).parents[2] / "docs" / "guide" / "interop.md").read_text()
    rows = {
        cells[0].strip("`"): [set(re.findall(r"`(\w+)`", cell)) for cell in cells[1:]]
        for table in tables_of(text)
        for cells in table
        if len(cells) == 1 + len(FATES)
    }
    assert rows.pop("layer") == [set()] * len(FATES)
    expected = {
        layer: [set(fates.get(fate, ())) for fate in FATES] for layer, fates in TABLE.items()
    }
    assert rows == expected
