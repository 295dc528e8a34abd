"""Exported files compute what the network does, with its pre- and postprocessing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import ExperimentConfig, ModelConfig
from experiments.errors import UserError
from experiments.export_formats import to_onnx, to_safetensors, to_stablehlo, to_torch
from experiments.export_spec import (
    DifferenceForecast,
    ExportSpec,
    OneHot,
    PrePost,
    Standardize,
    make_export_spec,
)
from experiments.models.recurrent import build_network
from gru_jax import export
from tests.slow import slow

LENGTHS = np.array([7, 0, 3], np.int32)
INDEPENDENT = DifferenceForecast(window=12, horizon=5, columns=3, segment=4, joint_columns=False)
JOINT = DifferenceForecast(window=12, horizon=5, columns=3, segment=4, joint_columns=True)


def config_of(**model):
    return ExperimentConfig(task="a test", model=ModelConfig(hidden_size=4, **model))


def case_of(name):
    """A network's inputs and outputs, its pre_post, and the shapes without and with them."""
    numbers = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    symbols = np.random.default_rng(0).integers(0, 6, (3, 7)).astype(np.int32)
    hours = np.random.default_rng(0).normal(size=(3, 12, 3)).astype(np.float32)
    return {
        # adding
        "last step": (2, 1, "last step", PrePost(), numbers, {}),
        # speech
        "last step, lengths": (2, 5, "last step", PrePost(), numbers, {"lengths": True}),
        # music
        "every step, lengths": (2, 3, "every step", PrePost(), numbers, {"lengths": True}),
        # digits
        "standardised": (1, 5, "last step", Standardize(0.3, 1.5), numbers[..., 0], {}),
        # copy, language
        "symbols": (6, 4, "every step", OneHot(6), symbols, {"dtype": "int32"}),
        # forecasting
        "one column": (4, 5, "last step", INDEPENDENT, hours, {}),
        "joint columns": (12, 15, "last step", JOINT, hours, {}),
    }[name]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        slow("last step", {"reset": "before"}),
        ("last step, lengths", {"bidirectional": True, "num_layers": 2}),
        slow("every step, lengths", {"num_layers": 2}),
        slow("standardised", {"reset": "before"}),
        ("symbols", {}),
        slow("one column", {}),
        slow("joint columns", {}),
    ],
)
def test_onnx_and_stablehlo_compute_what_the_network_does(name, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    features, out, readout, pre_post, inputs, options = case_of(name)
    config = config_of(**model)
    network = build_network(config.model, features, out, readout=readout, seed=0)
    params = randomized(network.params)
    outputs = {"last step": ("batch", out), "every step": ("batch", "time", out)}[readout]
    if isinstance(pre_post, DifferenceForecast):
        outputs = ("batch", 5, 3)
    time = 12 if isinstance(pre_post, DifferenceForecast) else "time"
    shape = ("batch", time, *inputs.shape[2:])
    spec = make_export_spec(network, pre_post, shape, outputs, **options)
    lengths = LENGTHS if spec.lengths else None
    expected = spec.apply(params, inputs, lengths)

    (onnx_file,) = to_onnx(config, spec, params).values()
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    given = {"inputs": inputs} | ({} if lengths is None else {"lengths": lengths})
    assert_close(session.run(None, given)[0], expected)

    program = export.load(to_stablehlo(config, spec, params)["model.zip"])
    given = [inputs] if lengths is None else [inputs, lengths]
    assert_close(program.call(*given), expected)


def test_other_networks_support_stablehlo_only():
    weights = jnp.arange(6.0).reshape(3, 2)
    spec = ExportSpec(
        lambda params, inputs, lengths: jnp.tanh(inputs @ params["w"]), ("batch", 3), ("batch", 2)
    )
    config, params = config_of(), {"w": weights}
    program = export.load(to_stablehlo(config, spec, params)["model.zip"])
    inputs = np.ones((4, 3), np.float32)
    assert_close(program.call(inputs), jnp.tanh(inputs @ weights))
    assert set(to_safetensors(config, spec, params)) == {"model.safetensors"}
    for write in (to_onnx, to_torch):
        with pytest.raises(UserError, match="no operator for its cells"):
            write(config, spec, params)


def test_a_search_supports_safetensors_only():
    config, params = config_of(), {"w": jnp.zeros(2)}
    assert set(to_safetensors(config, None, params)) == {"model.safetensors"}
    for write in (to_onnx, to_stablehlo, to_torch):
        with pytest.raises(UserError, match=r"search.*--to safetensors"):
            write(config, None, params)


def test_pytorch_has_no_reset_before_the_matmul():
    config = config_of(reset="before")
    network = build_network(config.model, 2, 1, readout="last step", seed=0)
    spec = make_export_spec(network, PrePost(), ("batch", "time", 2), ("batch", 1))
    with pytest.raises(UserError, match='reset="before"'):
        to_torch(config, spec, network.params)


def randomized(params):
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), leaf.dtype), params
    )


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6, strict=True)
