"""Weights that go from one library to another keep their function, whichever way they go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gru_jax
from experiments.interop import pairs
from experiments.interop.frameworks import FRAMEWORKS, Framework
from experiments.interop.models import Model, largest_error, run_ours
from tests.interop.assert_trees import KERAS_WARNING, assert_equal

pytestmark = pytest.mark.filterwarnings(KERAS_WARNING)

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def live(name: str) -> Framework:
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
    # Each example compiles anew.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_theirs_in_ours_and_ours_in_theirs_compute_the_same(name, data):
    framework = live(name)
    model = dataclasses.replace(
        data.draw(st.sampled_from(list(framework.models.values()))),
        input=data.draw(st.integers(1, 4)),
        hidden=data.draw(st.integers(1, 5)),
    )
    seed = data.draw(st.integers(0, 99))
    assert pairs.error_of_load(framework, model, seed) <= TOLERANCE[model.dtype]
    assert pairs.error_of_dump(framework, model, seed) <= TOLERANCE[model.dtype]


@every_framework
def test_a_swap_of_two_gates_shows(name):
    """What is compared tells every gate from every other, in each of the parameters."""
    framework = live(name)
    model = next(iter(framework.models.values()))
    theirs = framework.draw(model, np.random.default_rng(0))
    ours = pairs.converter(framework).load(theirs, **framework.options(model))
    feed = model.draw_inputs(0)
    expected = framework.run(model, theirs, *feed)
    assert largest_error(run_ours(ours, *feed), expected) <= TOLERANCE["float32"]
    for field in ("w_x", "w_h", "b"):
        gates = jnp.split(getattr(ours, field), 3, axis=-1)
        for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
            swapped = jnp.concatenate([gates[gate] for gate in order], axis=-1)
            wrong = dataclasses.replace(ours, **{field: swapped})
            assert largest_error(run_ours(wrong, *feed), expected) > 1e-3, (field, order)


@pytest.mark.parametrize("name", sorted({*FRAMEWORKS} - {"equinox", "onnx"}))
def test_loading_inverts_dumping_without_the_framework(name):
    """All of it but Equinox's cell and ONNX's models is arrays of NumPy."""
    framework = FRAMEWORKS[name]
    for model in framework.models.values():
        with jax.enable_x64(model.dtype == "float64"):
            ours = pairs.expressible(framework, model.draw(1))
            options = {"tensors": False} if name == "torch" else {}
            dumped = pairs.converter(framework).dump(ours, **options)
            assert_equal(pairs.converter(framework).load(dumped, **framework.options(model)), ours)


@pytest.mark.parametrize("name", ["equinox", "onnx"])
def test_loading_inverts_dumping_with_the_framework(name):
    framework = live(name)
    for model in framework.models.values():
        with jax.enable_x64(model.dtype == "float64"):
            ours = model.draw(1)
            assert_equal(pairs.converter(framework).load(pairs.dump(framework, model, ours)), ours)


@pytest.mark.parametrize("name", ["linen", "nnx", "haiku"])
def test_what_the_framework_lacks_comes_as_zeros(name):
    """Their cells always have biases: a model without any gets zeros, and computes the same."""
    framework = FRAMEWORKS[name]
    reset = next(iter(framework.models.values())).reset
    ours = Model(bias=False, reset=reset).draw(0)
    again = pairs.converter(framework).load(pairs.converter(framework).dump(ours))
    assert not again.b.any()
    feed = Model().draw_inputs(0)
    assert largest_error(run_ours(again, *feed), run_ours(ours, *feed)) == 0


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "onnx"])
def test_what_a_framework_cannot_express_is_refused(name):
    dump = pairs.converter(FRAMEWORKS[name]).dump
    reset = next(iter(FRAMEWORKS[name].models.values())).reset
    ours = pairs.expressible(FRAMEWORKS[name], Model(reset=reset).draw(0))
    learned = dataclasses.replace(ours, h0=jnp.zeros(5))
    with pytest.raises(ValueError, match="h0"):
        dump(learned)
    with pytest.raises(ValueError, match="residual"):
        dump(gru_jax.Stack(((ours,),), residual=True))
    with pytest.raises(TypeError, match=r"GRUParams.*LSTMParams"):
        dump(gru_jax.init_lstm(jax.random.key(0), 3, 5))
    with pytest.raises(ValueError, match="layer 1 reads 3 features, layer 0 gives 5"):
        dump(gru_jax.Stack(((ours,), (ours,))))
    if name != "keras":
        other = Model(reset="before" if reset == "after" else "after").draw(0)
        with pytest.raises(ValueError, match=r"reset=.*reset="):
            dump(other)
        with pytest.raises(ValueError, match="product"):
            dump(gru_jax.Stack(((ours, ours),), merge="product"))
