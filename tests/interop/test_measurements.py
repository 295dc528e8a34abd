"""Converted weights compute the same function, in both directions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gru_jax
from experiments.interop import measurements
from experiments.interop.frameworks import FRAMEWORKS, Framework
from experiments.interop.models import Model, largest_error, run_gru_jax
from tests.assert_trees import assert_equal
from tests.interop.keras_warning import KERAS_WARNING

pytestmark = pytest.mark.filterwarnings(KERAS_WARNING)

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def installed(name: str) -> Framework:
    framework = FRAMEWORKS[name]
    if framework.version is None:
        pytest.skip(f"{framework.distribution} is not installed")
    return framework


every_framework = pytest.mark.parametrize("name", FRAMEWORKS)


@every_framework
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    # Each example compiles again.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_loaded_and_dumped_weights_compute_the_same(name, data):
    framework = installed(name)
    model = dataclasses.replace(
        data.draw(st.sampled_from(list(framework.models.values()))),
        input=data.draw(st.integers(1, 4)),
        hidden=data.draw(st.integers(1, 5)),
    )
    seed = data.draw(st.integers(0, 99))
    assert measurements.load_error(framework, model, seed) <= TOLERANCE[model.dtype]
    assert measurements.dump_error(framework, model, seed) <= TOLERANCE[model.dtype]


@every_framework
def test_swapped_gates_are_detected(name):
    """The compared outputs distinguish every gate from the others, in each parameter."""
    framework = installed(name)
    model = next(iter(framework.models.values()))
    weights = framework.init(model, np.random.default_rng(0))
    params = measurements.converter(framework).load(weights, **framework.options(model))
    inputs = model.sample_inputs(0)
    expected = framework.run(model, weights, *inputs)
    assert largest_error(run_gru_jax(params, *inputs), expected) <= TOLERANCE["float32"]
    for field in ("w_x", "w_h", "b"):
        gates = jnp.split(getattr(params, field), 3, axis=-1)
        for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
            swapped = jnp.concatenate([gates[gate] for gate in order], axis=-1)
            wrong = dataclasses.replace(params, **{field: swapped})
            assert largest_error(run_gru_jax(wrong, *inputs), expected) > 1e-3, (field, order)


@pytest.mark.parametrize("name", sorted({*FRAMEWORKS} - {"equinox", "onnx"}))
def test_loading_inverts_dumping_without_the_framework(name):
    """All weights except Equinox's cell and ONNX's models are NumPy arrays."""
    framework = FRAMEWORKS[name]
    for model in framework.models.values():
        with jax.enable_x64(model.dtype == "float64"):
            params = measurements.expressible(framework, model.init(1))
            options = {"tensors": False} if name == "torch" else {}
            dumped = measurements.converter(framework).dump(params, **options)
            assert_equal(
                measurements.converter(framework).load(dumped, **framework.options(model)), params
            )


@pytest.mark.parametrize("name", ["equinox", "onnx"])
def test_loading_inverts_dumping_with_the_framework(name):
    framework = installed(name)
    for model in framework.models.values():
        with jax.enable_x64(model.dtype == "float64"):
            params = model.init(1)
            assert_equal(
                measurements.converter(framework).load(measurements.dump(framework, model, params)),
                params,
            )


@pytest.mark.parametrize("name", ["linen", "nnx", "haiku"])
def test_missing_biases_become_zeros(name):
    """The cells of these libraries always have biases: a model without any gets zeros."""
    framework = FRAMEWORKS[name]
    reset = next(iter(framework.models.values())).reset
    params = Model(bias=False, reset=reset).init(0)
    again = measurements.converter(framework).load(measurements.converter(framework).dump(params))
    assert not again.b.any()
    inputs = Model().sample_inputs(0)
    assert largest_error(run_gru_jax(again, *inputs), run_gru_jax(params, *inputs)) == 0


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "onnx"])
def test_what_a_framework_cannot_express_is_rejected(name):
    dump = measurements.converter(FRAMEWORKS[name]).dump
    reset = next(iter(FRAMEWORKS[name].models.values())).reset
    params = measurements.expressible(FRAMEWORKS[name], Model(reset=reset).init(0))
    learned = dataclasses.replace(params, h0=jnp.zeros(5))
    with pytest.raises(ValueError, match="h0"):
        dump(learned)
    with pytest.raises(ValueError, match="residual"):
        dump(gru_jax.Stack(((params,),), residual=True))
    with pytest.raises(TypeError, match=r"GRUParams.*LSTMParams"):
        dump(gru_jax.init_lstm(jax.random.key(0), 3, 5))
    with pytest.raises(ValueError, match="layer 1 reads 3 features, layer 0 gives 5"):
        dump(gru_jax.Stack(((params,), (params,))))
    if name != "keras":
        other = Model(reset="before" if reset == "after" else "after").init(0)
        with pytest.raises(ValueError, match=r"reset=.*reset="):
            dump(other)
        with pytest.raises(ValueError, match="product"):
            dump(gru_jax.Stack(((params, params),), merge="product"))
