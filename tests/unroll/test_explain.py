"""`explain` says what the same call of `unroll` does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll import dispatch
from tests.slow import slow
from tests.unroll.fake_device import fake_default_device

T, B, D, H = 6, 4, 3, 128
KEY = jax.random.key(0)
CELLS = {
    "gru": lambda: gru_jax.init(KEY, D, H),
    "gru before": lambda: gru_jax.init(KEY, D, H, reset="before"),
    "odd size": lambda: gru_jax.init(KEY, D, 20),
    "lstm": lambda: gru_jax.init_lstm(KEY, D, H),
    "bfloat16": lambda: gru_jax.init(KEY, D, H, dtype=jnp.bfloat16),
}
DEVICES = [
    ("cpu", "cpu", 1),
    ("gpu", "NVIDIA H100 80GB HBM3", 1),
    ("gpu", "NVIDIA H100 80GB HBM3", 2),
    ("gpu", "NVIDIA A100-SXM4-80GB", 1),
    ("tpu", "TPU v5e", 1),
]
OPTIONS = [{}, {"checkpoint": "step"}, {"checkpoint": "chunk"}, {"starts": np.zeros((T, B), bool)}]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", [slow("float32"), "bfloat16"])
def test_it_names_what_unroll_takes(device, dtype, taken):
    xs = jax.ShapeDtypeStruct((T, B, D), dtype)
    # What was traced for another device. A call that was traced before would not be seen.
    jax.clear_caches()
    for cell, options in itertools.product(CELLS.values(), OPTIONS):
        params = jax.eval_shape(cell)
        with fake_default_device(*device):
            explanation = gru_jax.explain(params, xs, **options)
            taken.clear()
            jax.eval_shape(lambda p, x, o=options: gru_jax.unroll(p, x, **o), params, xs)
        assert taken == [explanation.implementation]
        assert not explanation.reasons[explanation.implementation]


def test_every_reason_is_listed():
    with fake_default_device("cpu", "cpu"):
        explanation = gru_jax.explain(gru_jax.init_lstm(KEY, D, 20), jnp.ones((T, B, D)))
    reasons = explanation.reasons["mosaic_gpu"]
    assert [word for word in ("Hopper", "LSTMParams", "bfloat16") if word in str(reasons)] == [
        "Hopper",
        "LSTMParams",
        "bfloat16",
    ]
    assert len([text for text in reasons if not text.startswith("one-block")]) == 3
    assert explanation.implementation == "xla"


def test_the_table_has_a_row_for_each_implementation_and_says_what_is_done():
    text = str(gru_jax.explain(gru_jax.init(KEY, D, H), jnp.ones((T, B, D)), checkpoint=2))
    for name in dispatch.IMPLEMENTATIONS:
        assert name in text
    assert 'supported, but "xla" is faster' in text
    assert "one state per chunk of 2 steps" in text
    assert "saved for the backward pass" in text


def test_starts_and_masks_are_told():
    flags = np.ones((T, B), bool)
    params, xs = gru_jax.init(KEY, D, H), jnp.ones((T, B, D))
    details = str(gru_jax.explain(params, xs, starts=flags, mask=flags))
    assert "starts: the state is replaced within the loop" in details
    assert "mask: every step is computed" in details
    plain = str(gru_jax.explain(params, xs))
    assert [line for line in details.splitlines() if line not in plain.splitlines()] == [
        line for line in details.splitlines() if "mask:" in line or "starts:" in line
    ]


def test_a_stack_is_explained_cell_by_cell():
    stack = gru_jax.init_stack(KEY, D, 8, num_layers=2, bidirectional=True)
    explanation = gru_jax.explain(stack, jax.ShapeDtypeStruct((T, B, D), jnp.float32))
    assert explanation.implementation == "xla"
    assert [len(layer) for layer in explanation.layers] == [2, 2]
    assert "layer 1, backward" in str(explanation)


def test_inside_jit():
    names = []

    @jax.jit
    def run(params, xs):
        names.append(gru_jax.explain(params, xs).implementation)
        return gru_jax.unroll(params, xs)[1]

    run(gru_jax.init(KEY, D, 4), jnp.ones((T, B, D)))
    assert names == ["xla"]


def test_wrong_arguments_raise_as_in_unroll():
    params = gru_jax.init(KEY, D, 4)
    with pytest.raises(ValueError, match="xs has shape"):
        gru_jax.explain(params, jnp.ones((T, B, D + 1)))
    with pytest.raises(NotImplementedError, match="mosaic_gpu"):
        gru_jax.explain(params, jnp.ones((T, B, D)), implementation="mosaic_gpu")
