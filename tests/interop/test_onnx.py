"""ONNX models that gru_jax writes: onnxruntime computes what gru_jax computes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gru_jax

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from experiments.interop.bad_files.adversarial_onnx import gru, randomized, stack  # noqa: E402
from gru_jax.interop import onnx as converter  # noqa: E402
from tests.assert_trees import assert_equal  # noqa: E402
from tests.interop.onnx_values import assert_close, joined  # noqa: E402


def run(model, **inputs):
    """What onnxruntime computes; its warnings about shapes it cannot infer are left out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = {name: np.asarray(value) for name, value in inputs.items() if value is not None}
    return session.run(None, arrays)


SIZES = st.integers(1, 6)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    time=SIZES,
    batch=SIZES,
    sizes=st.tuples(SIZES, SIZES),
    reset=st.sampled_from(["after", "before"]),
    bias=st.booleans(),
    learned_h0=st.booleans(),
    reverse=st.booleans(),
    with_h0=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_gru_is_computed_alike(
    time, batch, sizes, reset, bias, learned_h0, reverse, with_h0, seed
):
    params = gru(*sizes, seed=seed, reset=reset, bias=bias, learned_h0=learned_h0)
    random = np.random.default_rng(seed)
    xs = jnp.asarray(random.normal(size=(time, batch, sizes[0])), jnp.float32)
    h0 = jnp.asarray(random.normal(size=(batch, sizes[1])), jnp.float32) if with_h0 else None
    # Length 0 among them, which onnxruntime by itself ends in zeros.
    lengths = jnp.asarray(random.integers(0, time + 1, batch), jnp.int32)
    model = converter.dump(params, reverse=reverse, h0="h0" if with_h0 else None)
    h_last, ys = gru_jax.unroll(params, xs, h0, lengths=lengths, reverse=reverse)
    found = run(model, xs=xs, h0=h0, lengths=lengths)
    assert_close(found[0], ys)
    assert_close(found[1], h_last)
    assert_equal(converter.load(model), params)
    assert converter.read(model).reverse == reverse


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    merge=st.sampled_from(["concat", "sum", "mean", "product"]),
    residual=st.booleans(),
    reset=st.sampled_from(["after", "before"]),
    learned_h0=st.booleans(),
    with_states=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_stack_is_computed_alike(
    num_layers, bidirectional, merge, residual, reset, learned_h0, with_states, seed
):
    params = stack(
        num_layers=num_layers,
        bidirectional=bidirectional,
        # What makes no difference is not to be seen in a model.
        merge=merge if bidirectional else "concat",
        residual=residual and num_layers > 1,
        reset=reset,
        learned_h0=learned_h0,
        seed=seed,
    )
    random = np.random.default_rng(seed)
    xs = jnp.asarray(random.normal(size=(5, 3, 3)), jnp.float32)
    lengths = jnp.array([5, 0, 2], jnp.int32)
    model = converter.dump(params)
    first = None
    if with_states:
        first = randomized(gru_jax.initial_state(params, (3,)), seed + 1)
    states, ys = gru_jax.unroll_stack(params, xs, first, lengths=lengths)
    found = run(model, xs=xs, lengths=lengths, h0=None if first is None else joined(first))
    assert_close(found[0], ys)
    assert_close(found[1], joined(states))
    assert_equal(converter.load(model), params)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_stay(dtype):
    """In onnxruntime a GRU runs in float32 alone; a model and its parameters are of others, too."""
    with jax.enable_x64():
        params = randomized(gru(), dtype=dtype)
        assert_equal(converter.load(converter.dump(params)), params)


def test_inputs_may_be_left_out_and_lengths_go_beyond():
    """Which is as if every sequence had all steps."""
    params = gru(learned_h0=True)
    model = converter.dump(params)
    xs = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    whole = run(model, xs=xs)
    for inputs in (
        {"lengths": np.array([4, 4], np.int32)},
        {"lengths": np.array([9], np.int32)},
        {"h0": np.asarray(params.h0)[None]},
    ):
        for actual, expected in zip(run(model, xs=xs, **inputs), whole, strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("learned_h0", [False, True])
def test_onnxruntime_loads_without_a_warning(learned_h0, capfd):
    """An input with an initializer of its name is warned of at each load."""
    for params in (gru(learned_h0=learned_h0), stack(learned_h0=learned_h0, bidirectional=True)):
        content = converter.dump(params).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        session.run(None, {"xs": np.zeros((2, 1, 3), np.float32)})
    assert capfd.readouterr().err == ""


def test_the_default_of_an_optional_input_is_read_and_no_other_condition():
    params = gru(learned_h0=True)
    model = converter.dump(params)
    assert_equal(converter.load(model), params)
    condition = next(node for node in model.graph.node if node.op_type == "If")
    branch = next(each.g for each in condition.attribute if each.name == "then_branch")
    branch.node[0].op_type = "Identity"
    assert converter.load(model).h0 is None
    assert converter.read(model).given_states


def test_swapped_gates_are_seen():
    """A check of the checks: the weights are such that no other order of gates computes alike."""
    params = gru()
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32)
    found = run(converter.dump(params), xs=xs)[0]
    for order in itertools.permutations(range(3)):

        def swap(leaf, order=order):
            if leaf.shape[-1] != 12:
                return leaf
            return jnp.concatenate([jnp.split(leaf, 3, axis=-1)[at] for at in order], axis=-1)

        _, ys = gru_jax.unroll(jax.tree.map(swap, params), xs)
        differs = np.abs(found - ys).max() > 1e-3
        assert differs == (order != (0, 1, 2))


def test_names_are_of_choice_and_inputs_may_be_missing():
    model = converter.dump(gru(), xs="frames", h0=None, lengths="n", ys="out", h_last=None)
    assert [value.name for value in model.graph.input] == ["frames", "n"]
    assert [value.name for value in model.graph.output] == ["out"]
    plain = converter.dump(gru(), h0=None, lengths=None)
    operators = [node.op_type for node in plain.graph.node]
    assert operators.count("GRU") == 1
    assert not {"Loop", "Scan", "If", "Where"} & set(operators)


def test_a_file_is_written_whole_and_read(tmp_path):
    path = tmp_path / "gru.onnx"
    params = gru()
    converter.dump(params, path)
    assert_equal(converter.load(path), params)
    assert_equal(converter.load(str(path)), params)
    assert_equal(converter.load(path.read_bytes()), params)
    assert [file.name for file in tmp_path.iterdir()] == ["gru.onnx"]


@pytest.mark.parametrize(
    ("make", "options", "kind", "message"),
    [
        (lambda: gru_jax.init_lstm(jax.random.key(0), 3, 4), {}, TypeError, "LSTMParams"),
        (lambda: {"w_x": 1}, {}, TypeError, "dict"),
        (gru, {"xs": "h0"}, ValueError, "distinct"),
        (gru, {"xs": ""}, ValueError, "non-empty"),
        (lambda: stack(bidirectional=True), {"reverse": True}, ValueError, "one direction"),
        (lambda: randomized(gru(), dtype="bfloat16"), {}, TypeError, "bfloat16"),
        (lambda: gru_jax.Stack(((gru(3, 4),), (gru(4, 5),))), {}, ValueError, "hidden size"),
        (lambda: gru_jax.Stack(((gru(3, 4),), (gru(3, 4),))), {}, ValueError, "layer 1 reads 3"),
    ],
)
def test_features_that_onnx_lacks_are_rejected(make, options, kind, message):
    params = make()
    with pytest.raises(kind, match=message):
        converter.dump(params, **options)
