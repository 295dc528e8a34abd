"""Wrong arguments of the NNX modules are named, with what the caller passed."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from gru_jax.nn import (
    GRU,
    LSTM,
    GRUCell,
)

BATCH, TIME, INPUT, HIDDEN = 3, 6, 4, 5


def inputs(*shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(7), shape or (BATCH, TIME, INPUT), dtype)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"reset": "sideways"}, "reset"),
        ({"merge": "median"}, "merge"),
        ({"implementation": "cuda"}, "implementation"),
        ({"checkpoint": "sometimes"}, "checkpoint"),
        ({"checkpoint": 0}, "checkpoint"),
        ({"bidirectional": "yes"}, "bidirectional"),
        ({"residual": "no"}, "residual"),
        ({"time_major": 3}, "time_major"),
        ({"dtype": "int32"}, "dtype"),
    ],
)
def test_wrong_options_are_named_at_construction(arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0), **arguments)


@pytest.mark.parametrize("rngs", [0, None, jax.random.key(0)], ids=["number", "none", "key"])
def test_wrong_rngs_are_named_at_construction(rngs):
    with pytest.raises(TypeError, match=r"rngs must be a flax.nnx.Rngs, such as nnx.Rngs\(0\)"):
        GRU(INPUT, HIDDEN, rngs=rngs)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_layer", r"it takes num_layers, bidirectional.*, reset"),
        ("keep_order", "aligned"),
        ("carry_init", "initial_carry"),
        ("gate_fn", "AffineCell"),
        ("activation_fn", "AffineCell"),
        ("return_sequences", "return_carry"),
        ("go_backwards", "reverse=True"),
        ("unroll", "loop"),
    ],
)
def test_unknown_arguments_name_the_class_and_what_it_takes(name, hint):
    with pytest.raises(TypeError, match=rf"GRU has no argument '{name}': .*{hint}"):
        GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0), **{name: True})
    with pytest.raises(TypeError, match=f"GRUCell has no argument '{name}'"):
        GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0), **{name: True})
    LSTM(INPUT, HIDDEN, forget_bias=1.0, param_dtype="bfloat16", rngs=nnx.Rngs(0))


def test_unknown_arguments_of_a_call_are_named():
    module = GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"call of GRU has no argument 'keep_order': .*aligned"):
        module(inputs(), keep_order=True)
    with pytest.raises(TypeError, match=r"'lengths': it takes initial_carry, seq_lengths"):
        module(inputs(), lengths=jnp.ones(BATCH, int))


@pytest.mark.parametrize("time_major", [False, True])
def test_messages_have_the_shapes_and_names_that_the_caller_passed(time_major):
    module = GRU(INPUT, HIDDEN, time_major=time_major, rngs=nnx.Rngs(0))
    outer = (TIME, BATCH) if time_major else (BATCH, TIME)
    axes = "(time, *batch" if time_major else "(*batch, time"

    def message(xs, **arguments):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            module(xs, **arguments)
        return str(caught.value)

    assert message(jnp.zeros((*outer, INPUT + 1))) == (
        f"inputs has shape {(*outer, INPUT + 1)}, expected its last axis to be {INPUT}, the "
        f"module's input size: {axes}, input)"
    )
    assert f"inputs has shape {(INPUT,)}" in message(jnp.zeros(INPUT))
    xs = jnp.zeros((*outer, INPUT))
    for name in ("mask", "starts"):
        assert message(xs, **{name: jnp.ones(outer[::-1], bool)}) == (
            f"{name} has shape {outer[::-1]}, expected {outer}: {axes})"
        )
        wide = {name: jnp.ones((*outer, 1), bool)}
        assert message(xs, **wide).endswith("; drop the last axis")
    assert "seq_lengths has shape (2,), expected (3,)" in message(xs, seq_lengths=jnp.ones(2, int))


@pytest.mark.parametrize(
    ("options", "carry", "error", "expected"),
    [
        ({}, jnp.zeros((2, HIDDEN)), ValueError, r"initial_carry has shape \(2, 5\)"),
        (
            {"num_layers": 2},
            0,
            TypeError,
            r"initial_carry must be .* each layer, 2 in all; got int",
        ),
        ({"bidirectional": True}, {"a": 0}, TypeError, r"each direction, 2 in all; got dict"),
        (
            {"num_layers": 2, "bidirectional": True},
            (jnp.zeros((BATCH, HIDDEN)),) * 2,
            TypeError,
            r"initial_carry\[0\] must be .* each direction",
        ),
        (
            {"num_layers": 2, "bidirectional": True},
            [[jnp.zeros((BATCH, HIDDEN)), jnp.zeros((BATCH, HIDDEN))], [jnp.zeros((1, 1))] * 2],
            ValueError,
            r"initial_carry\[1\]\[0\] has shape \(1, 1\)",
        ),
    ],
)
def test_wrong_carries_are_named(options, carry, error, expected):
    module = GRU(INPUT, HIDDEN, rngs=nnx.Rngs(0), **options)
    with pytest.raises(error, match=expected):
        module(inputs(), initial_carry=carry)
