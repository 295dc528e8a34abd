"""ONNX: what onnxruntime computes from our models, and what ours computes from theirs."""

import importlib
import io
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gru_jax

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.backend.test.case import node as node_cases  # noqa: E402

from gru_jax.interop import onnx as converter  # noqa: E402
from gru_jax.interop.files import FileError  # noqa: E402
from tests.interop.damage import damaged, survey  # noqa: E402

TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


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


def randomized(params, seed=0, dtype="float32"):
    """The same tree with every number drawn: no two gates alike, no bias zero."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.6, leaf.shape), dtype), params)


def gru(input_size=3, hidden_size=4, *, seed=0, **options):
    return randomized(gru_jax.init(jax.random.key(0), input_size, hidden_size, **options), seed)


def stack(input_size=3, hidden_size=4, *, seed=0, **options):
    drawn = gru_jax.init_stack(jax.random.key(0), input_size, hidden_size, **options)
    return randomized(drawn, seed)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def assert_close(actual, expected, dtype="float32"):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype], strict=True)


def joined(states):
    """States by layer and direction as one array, as a model has them."""
    return jnp.stack([state for layer in states for state in layer])


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
    model = converter.dump(params, reverse=reverse)
    h_last, ys = gru_jax.unroll(params, xs, h0, lengths=lengths, reverse=reverse)
    found = run(model, xs=xs, h0=h0, lengths=lengths)
    assert_close(found[0], ys)
    assert_close(found[1], h_last)
    assert_same(converter.load(model), params)
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
    assert_same(converter.load(model), params)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_stay(dtype):
    """In onnxruntime a GRU runs in float32 alone; a model and its parameters are of others, too."""
    with jax.enable_x64():
        params = randomized(gru(), dtype=dtype)
        assert_same(converter.load(converter.dump(params)), params)


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
    assert_same(converter.load(path), params)
    assert_same(converter.load(str(path)), params)
    assert_same(converter.load(path.read_bytes()), params)
    assert [file.name for file in tmp_path.iterdir()] == ["gru.onnx"]


@pytest.mark.parametrize(
    ("ours", "options", "kind", "message"),
    [
        (gru_jax.init_lstm(jax.random.key(0), 3, 4), {}, TypeError, "LSTMParams"),
        (gru(), {"xs": "h0"}, ValueError, "differ"),
        (gru(), {"xs": ""}, ValueError, "texts"),
        (stack(bidirectional=True), {"reverse": True}, ValueError, "one direction"),
        (randomized(gru(), dtype="bfloat16"), {}, TypeError, "bfloat16"),
        (gru_jax.Stack(((gru(3, 4),), (gru(4, 5),))), {}, ValueError, "hidden size"),
        (gru_jax.Stack(((gru(3, 4),), (gru(3, 4),))), {}, ValueError, "layer 1 reads 3"),
    ],
)
def test_what_a_model_cannot_hold_is_refused(ours, options, kind, message):
    with pytest.raises(kind, match=message):
        converter.dump(ours, **options)


def test_the_node_tests_of_onnx_hold():
    # What load_model_tests(kind="node") has of GRUs; for it, every operator's cases are made first.
    importlib.import_module("onnx.backend.test.case.node.gru")
    cases = [case for case in node_cases._NodeTestCases if "gru" in case.name]
    assert len(cases) >= 6
    for case in cases:
        names = [value.name for value in case.model.graph.input]
        outputs = [value.name for value in case.model.graph.output]
        for inputs, expected in case.data_sets:
            values = dict(zip(names, inputs, strict=True))
            xs = values.pop("X")
            layers = converter.read(case.model, weights=values)
            if any(a.name == "layout" and a.i for a in case.model.graph.node[0].attribute):
                xs = xs.swapaxes(0, 1)
                expected = [array.swapaxes(0, -2) for array in expected]
            if isinstance(layers.params, gru_jax.Stack):
                states, ys = gru_jax.unroll_stack(layers.params, xs)
                ys = ys.reshape(*ys.shape[:2], 2, -1).swapaxes(1, 2)
                found = {"Y": ys, "Y_h": joined(states)}
            else:
                h_last, ys = gru_jax.unroll(layers.params, xs, reverse=layers.reverse)
                found = {"Y": ys[:, None], "Y_h": h_last[None]}
            for name, array in zip(outputs, expected, strict=True):
                assert_close(found[name], array)


@pytest.mark.parametrize("options", [{}, {"do_constant_folding": False}])
@pytest.mark.parametrize("with_h0", [True, False])
@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "bias", "batch_first"),
    [
        (1, False, True, False),
        (1, True, True, True),
        (2, False, False, True),
        (3, True, True, False),
    ],
)
def test_what_pytorch_exports_is_read(
    num_layers, bidirectional, bias, batch_first, with_h0, options
):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.GRU(3, 4, num_layers, bias, batch_first, bidirectional=bidirectional)
    xs = torch.randn(5, 5, 3)
    h0 = torch.randn(num_layers * (1 + bidirectional), 5, 4)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (xs, h0) if with_h0 else (xs,), file, dynamo=False, input_names=["xs"],
            dynamic_axes={"xs": {0: "first", 1: "second"}}, **options,
        )  # fmt: skip
    layers = converter.read(file.getvalue())
    assert layers.given_states == with_h0
    params = layers.params
    if isinstance(params, gru_jax.GRUParams):
        params = gru_jax.Stack(((params,),))
    expected = module(xs, h0 if with_h0 else None)
    ours = jnp.asarray(xs.numpy())
    first = None
    if with_h0:
        first = iter(jnp.asarray(h0.numpy()))
        first = tuple(tuple(next(first) for _ in layer) for layer in params.layers)
    if batch_first:
        ours = ours.swapaxes(0, 1)
    states, ys = gru_jax.unroll_stack(params, ours, first)
    assert_close(ys.swapaxes(0, 1) if batch_first else ys, expected[0].detach().numpy())
    assert_close(joined(states), expected[1].detach().numpy())


def order(packed):
    """Our gates, r, z and n side by side, in the operator's order."""
    r, z, n = np.split(np.asarray(packed), 3, axis=-1)
    return np.concatenate([z, r, n], axis=-1)


def by_hand(params, nodes=None, *, further=(), opset=17, inputs=(), **attributes):
    """A model written from the operator's documentation; without `nodes` of one GRU."""
    hidden = params.hidden_size
    recurrent = np.concatenate([np.zeros(2 * hidden, np.float32), params.b_hn])
    arrays = {
        "W": order(params.w_x).T[None],
        "R": order(params.w_h).T[None],
        "B": np.concatenate([order(params.b), order(recurrent)])[None],
        **dict(further),
    }
    attributes = {"hidden_size": hidden, "linear_before_reset": 1, **attributes}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or [helper.make_node("GRU", ["X", *"WRB"], ["Y"], "gru", **attributes)],
        "by hand",
        [value("X", TensorProto.FLOAT, ["t", "b", params.input_size]), *inputs],
        [value("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], output, **attributes)


def test_a_node_by_hand_is_read():
    params = gru()
    assert_same(converter.load(by_hand(params)), params)
    explicit = by_hand(params, activations=["Sigmoid", "Tanh"], direction="forward")
    assert_same(converter.load(explicit), params)
    assert converter.read(by_hand(params, direction="reverse")).reverse


def test_weights_may_lie_in_typed_fields_and_in_other_files(tmp_path):
    params = gru()
    model = by_hand(params)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(array.reshape(-1).tolist())
    assert_same(converter.load(model), params)
    path = tmp_path / "gru.onnx"
    model = by_hand(params)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert len(path.read_bytes()) < 2000
    assert_same(converter.load(path), params)
    with pytest.raises(ValueError, match="give the path"):
        converter.load(path.read_bytes())


def test_what_is_between_layers_is_followed():
    """As a converter writes that has a node for each direction, batch-major axes and opset 7."""
    forward, backward, upper = gru(seed=1), gru(seed=2), gru(8, seed=3)
    arrays = {}
    for name, cell in {"f": forward, "b": backward, "u": upper}.items():
        for tensor in by_hand(cell).graph.initializer:
            arrays[name + tensor.name] = numpy_helper.to_array(tensor)
    options = {"hidden_size": 4, "linear_before_reset": 1}
    nodes = [
        node("Transpose", ["X"], "x", perm=[1, 0, 2]),
        node("GRU", ["x", "fW", "fR", "fB"], "f", **options),
        node("GRU", ["x", "bW", "bR", "bB"], "b", direction="reverse", **options),
        node("Squeeze", ["f"], "f1", axes=[1]),
        node("Squeeze", ["b"], "b1", axes=[1]),
        node("Concat", ["f1", "b1"], "both", axis=-1),
        node("Transpose", ["both"], "batched", perm=[1, 0, 2]),
        node("Dropout", ["batched"], "dropped"),
        node("Transpose", ["dropped"], "timed", perm=[1, 0, 2]),
        node("GRU", ["timed", "uW", "uR", "uB"], "Y", **options),
    ]
    read = converter.load(by_hand(forward, nodes, further=arrays, opset=7))
    assert_same(read, gru_jax.Stack(((forward, backward), (upper,))))


def test_nodes_are_chosen_by_name():
    params, other = gru(seed=1), gru(seed=2)
    further = {
        "o" + tensor.name: numpy_helper.to_array(tensor)
        for tensor in by_hand(other).graph.initializer
    }
    options = {"hidden_size": 4, "linear_before_reset": 1}
    nodes = [
        node("GRU", ["X", *"WRB"], "Y", **options),
        node("GRU", ["X", "oW", "oR", "oB"], "Z", **options),
    ]
    model = by_hand(params, nodes, further=further)
    with pytest.raises(ValueError, match=r"\['Y', 'Z'\] are not layers of one stack"):
        converter.load(model)
    assert_same(converter.load(model, nodes=["Z"]), other)
    with pytest.raises(ValueError, match="'y'"):
        converter.load(model, nodes=["y"])
    with pytest.raises(ValueError, match="'w'"):
        converter.load(model, weights={"w": np.zeros(3)})


def damaged_tensor(**changes):
    """The model whose first tensor is changed."""
    model = by_hand(gru())
    tensor = model.graph.initializer[0]
    for name, value in changes.items():
        if name in ("dims", "float_data"):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        elif value is None:
            tensor.ClearField(name)
        else:
            setattr(tensor, name, value)
    return model


def elsewhere(location, **said):
    """The model whose first tensor lies in another file."""
    model = damaged_tensor(raw_data=None, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **said}.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    return model


def followed_by(*nodes, further=()):
    params = gru()
    return by_hand(
        params, [*nodes, node("GRU", ["X", *"WRB"], "Y", linear_before_reset=1)], further=further
    )


def within_a_branch():
    inner = helper.make_graph(by_hand(gru()).graph.node, "inner", [], [])
    branches = {"then_branch": inner, "else_branch": inner}
    return by_hand(gru(), [node("If", ["X"], "Y", **branches)])


def chain(length):
    """Constants put together again and again, which would fill any memory."""
    nodes = [node("Concat", [f"c{at}"] * 8, f"c{at + 1}", axis=0) for at in range(length)]
    return followed_by(*nodes, further={"c0": np.zeros(1000, np.float32)})


LONG = [node("Identity", ["X" if at == 0 else f"i{at}"], f"i{at + 1}") for at in range(5000)]
HOSTILE = {
    "clip": (lambda: by_hand(gru(), clip=1.0), "clip"),
    "activations": (lambda: by_hand(gru(), activations=["Relu", "Tanh"]), "Relu"),
    "alpha": (lambda: by_hand(gru(), activation_alpha=[0.3]), "activation_alpha"),
    "an attribute of its own": (lambda: by_hand(gru(), speed=3), "speed"),
    "direction": (lambda: by_hand(gru(), direction="sideways"), "sideways"),
    "hidden_size": (lambda: by_hand(gru(), hidden_size=2**40), "hidden_size"),
    "hidden_size as a text": (lambda: by_hand(gru(), hidden_size="four"), "four"),
    "an old opset": (lambda: by_hand(gru(), opset=1), "opset"),
    "huge shape": (lambda: damaged_tensor(dims=[1, 2**40, 2**40]), "needs"),
    "huge shape of nothing": (lambda: damaged_tensor(dims=[0, 2**62, 2**62], raw_data=b""), "'W'"),
    "negative shape": (lambda: damaged_tensor(dims=[-1, 12, 3]), "-1"),
    "typed field too short": (
        lambda: damaged_tensor(raw_data=None, float_data=[1.0]), "does not hold"
    ),
    "texts": (lambda: damaged_tensor(data_type=TensorProto.STRING), "does not hold numbers"),
    "integers": (lambda: damaged_tensor(data_type=TensorProto.INT32), "int32"),
    "other types": (
        lambda: damaged_tensor(data_type=TensorProto.FLOAT16, dims=[1, 12, 6]), "float16"
    ),
    "an unknown type": (lambda: damaged_tensor(data_type=999), "does not hold numbers"),
    "wrong shape": (lambda: damaged_tensor(dims=[1, 3, 12]), "shape"),
    "a path upwards": (lambda: elsewhere("../secret"), "'../secret'"),
    "an absolute path": (lambda: elsewhere("/etc/passwd"), "'/etc/passwd'"),
    "a device": (lambda: elsewhere("/dev/zero"), "'/dev/zero'"),
    "a null byte": (lambda: elsewhere("a\0b"), "no file"),
    "a folder": (lambda: elsewhere("."), "no file"),
    "a link upwards": (lambda: elsewhere("link"), "no file"),
    "a huge offset": (lambda: elsewhere("beside", offset="9" * 40), "offset"),
    "an offset of words": (lambda: elsewhere("beside", offset="many"), "many"),
    "a negative offset": (lambda: elsewhere("beside", offset="-8"), "-8"),
    "more than the file": (lambda: elsewhere("beside"), "needs"),
    "no weights": (lambda: by_hand(gru(), [node("GRU", ["X", "", "R"], "Y")]), "no W"),
    "no inputs": (lambda: by_hand(gru(), [node("GRU", [], "Y")]), "no W"),
    "unknown inputs": (lambda: by_hand(gru(), [node("GRU", ["X", *"WZB"], "Y")]), "'Z'"),
    "a cycle": (
        lambda: followed_by(node("Identity", ["q"], "p"), node("Identity", ["p"], "q")), "'q'"
    ),
    "a name twice": (lambda: followed_by(node("Identity", ["X"], "W")), "there already"),
    "weights of the input": (
        lambda: by_hand(gru(), [node("GRU", ["X", "X", "R"], "Y")]), "no constant"
    ),
    "within a branch": (within_a_branch, "within If"),
    "an axis that is not there": (
        lambda: followed_by(node("Concat", ["W", "W"], "p", axis=7)), "Concat 'p'"
    ),
    "an operator without inputs": (lambda: followed_by(node("Transpose", [], "p")), "Transpose"),
    "a constant of nothing": (lambda: followed_by(node("Constant", [], "p")), "Constant"),
    "lengths that are a constant": (
        lambda: by_hand(
            gru(), [node("GRU", ["X", *"WRB", "n"], "Y")], further={"n": np.array([3], np.int32)}
        ),
        "sequence_lens",
    ),
    "states that differ": (
        lambda: by_hand(
            gru(),
            [node("GRU", ["X", *"WRB", "", "h"], "Y")],
            further={"h": np.arange(8, dtype=np.float32).reshape(1, 2, 4)},
        ),
        "initial_h",
    ),
    "no GRU": (lambda: by_hand(gru(), [node("Identity", ["X"], "Y")]), "no GRU node"),
    "no nodes": (lambda: onnx.ModelProto(ir_version=8), "without nodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused(name, tmp_path):
    make, message = HOSTILE[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "beside").write_bytes(bytes(10))
    path = folder / "bad.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(FileError) as caught:
        converter.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("make", [lambda: chain(40), lambda: followed_by(*LONG)])
def test_much_that_is_no_matter_takes_neither_memory_nor_time(make):
    assert_same(converter.load(make()), gru())


@pytest.mark.parametrize("path", ["nowhere.onnx", "."])
def test_files_that_are_not_there_are_named(path):
    with pytest.raises(FileError, match=path):
        converter.load(path)


def good_files():
    """A file with weights as bytes, one with typed fields, and one by another exporter's habit."""
    typed = by_hand(gru())
    for tensor in typed.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(array.reshape(-1).tolist())
    small = stack(2, 2, num_layers=2, bidirectional=True, learned_h0=True)
    return [model.SerializeToString() for model in (converter.dump(small), typed)]


@pytest.mark.parametrize(
    "count", [200, pytest.param(4000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_files_are_refused_or_read(count):
    for seed, good in enumerate(good_files()):
        found = survey("gru_jax.interop.onnx", ".onnx", good, damaged(good, count // 2, seed))
        assert not found.wrong
        assert found.loaded + found.refused == count // 2
        assert found.refused > 0
        assert found.slowest < 10
