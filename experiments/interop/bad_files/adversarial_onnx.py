"""ONNX models built by hand: valid ones, and adversarial ones that try to crash a reader."""

import random
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, helper, numpy_helper

import gru_jax
from experiments.interop.bad_files.constructed import NUMBERS, STRANGE


def randomized(params, seed=0, dtype="float32"):
    """The same tree with random elements: gates differ from each other, no bias is zero."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.6, leaf.shape).astype(jnp.dtype(dtype))), params
    )


def gru(input_size=3, hidden_size=4, *, seed=0, **options):
    return _random(gru_jax.init, input_size, hidden_size, seed, options)


def stack(input_size=3, hidden_size=4, *, seed=0, **options):
    return _random(gru_jax.init_stack, input_size, hidden_size, seed, options)


def _random(init, input_size, hidden_size, seed, options):
    # Only the tree is wanted: its arrays would be compiled for each shape.
    params = jax.eval_shape(lambda: init(jax.random.key(0), input_size, hidden_size, **options))
    return randomized(params, seed)


def order(packed):
    """Reorders concatenated gates from r, z, n to the operator's order z, r, n."""
    r, z, n = np.split(np.asarray(packed), 3, axis=-1)
    return np.concatenate([z, r, n], axis=-1)


def by_hand(params, nodes=None, *, further=(), opset=17, inputs=(), **attributes):
    """A model written from the operator's documentation; by default its only node is a GRU."""
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


def corrupted_tensor(**changes):
    """A model whose first tensor has changed fields."""
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


def in_another_file(location, **entries):
    """A model whose first tensor is in another file."""
    model = corrupted_tensor(raw_data=None, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
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
    """Constants that are concatenated repeatedly, so that the result exceeds any memory."""
    nodes = [node("Concat", [f"c{at}"] * 8, f"c{at + 1}", axis=0) for at in range(length)]
    return followed_by(*nodes, further={"c0": np.zeros(1000, np.float32)})


def many_slices(number):
    """Slices along a million axes."""
    nodes = [node("Slice", ["W", "a", "a", "a"], f"s{at}") for at in range(number)]
    return followed_by(*nodes, further={"a": np.zeros(1_000_000, np.int64)})


def looked_at_again(number):
    """A large constant of which every node asks whether it is zero."""
    nodes = [node("Expand", ["c", "one"], "e")]
    nodes += [node("Squeeze", ["e", "one"], f"s{at}") for at in range(number)]
    zeros = np.zeros(1_000_000, np.int64)
    return followed_by(*nodes, further={"c": zeros, "one": np.array([0], np.int64)})


def sliced_again(number):
    """A large constant whose slices are each asked whether they are zero."""
    nodes = [node("Expand", ["c", "n"], "s0")]
    limits = ["one", "n", "one"]
    nodes += [node("Slice", [f"s{at}", *limits], f"s{at + 1}") for at in range(number)]
    further = {
        "c": np.append(np.zeros(1_000_000, np.int64), 1),
        "one": np.array([0], np.int64),
        "n": np.array([1_000_001], np.int64),
    }
    return followed_by(*nodes, further=further)


def many_fields(number):
    """A model of empty nodes, each of which takes far more than its two bytes when parsed."""
    return by_hand(gru()).SerializeToString() + b"\x3a" + _varint(2 * number) + b"\x0a\0" * number


def many_axes(number):
    """A tensor whose number of elements takes quadratic time to multiply."""
    return corrupted_tensor(dims=[2**62] * number)


def _varint(value):
    """A number as Protocol Buffers write it."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


def many_nodes(number, hidden):
    """Many layers that share the same weights."""
    params = gru(hidden, hidden)
    nodes = []
    for at in range(number):
        read = f"s{at - 1}" if at else "X"
        nodes.append(node("GRU", [read, *"WRB"], f"y{at}"))
        nodes.append(node("Squeeze", [f"y{at}", "one"], f"s{at}"))
    return by_hand(params, nodes, further={"one": np.array([1], np.int64)})


LONG = [node("Identity", ["X" if at == 0 else f"i{at}"], f"i{at + 1}") for at in range(5000)]
ADVERSARIAL = {
    "clip": (lambda: by_hand(gru(), clip=1.0), "clip"),
    "activations": (lambda: by_hand(gru(), activations=["Relu", "Tanh"]), "Relu"),
    "alpha": (lambda: by_hand(gru(), activation_alpha=[0.3]), "activation_alpha"),
    "an attribute of its own": (lambda: by_hand(gru(), speed=3), "speed"),
    "direction": (lambda: by_hand(gru(), direction="sideways"), "sideways"),
    "hidden_size": (lambda: by_hand(gru(), hidden_size=2**40), "hidden_size"),
    "hidden_size as a text": (lambda: by_hand(gru(), hidden_size="four"), "four"),
    "an old opset": (lambda: by_hand(gru(), opset=1), "opset"),
    "huge shape": (lambda: corrupted_tensor(dims=[1, 2**40, 2**40]), "needs"),
    "huge empty shape": (lambda: corrupted_tensor(dims=[0, 2**62, 2**62], raw_data=b""), "'W'"),
    "negative shape": (lambda: corrupted_tensor(dims=[-1, 12, 3]), "-1"),
    "typed field too short": (
        lambda: corrupted_tensor(raw_data=None, float_data=[1.0]), "does not hold"
    ),
    "texts": (lambda: corrupted_tensor(data_type=TensorProto.STRING), "does not hold numbers"),
    "integers": (lambda: corrupted_tensor(data_type=TensorProto.INT32), "int32"),
    "other types": (
        lambda: corrupted_tensor(data_type=TensorProto.FLOAT16, dims=[1, 12, 6]), "float16"
    ),
    "an unknown type": (lambda: corrupted_tensor(data_type=999), "does not hold numbers"),
    "wrong shape": (lambda: corrupted_tensor(dims=[1, 3, 12]), "shape"),
    "a path upwards": (lambda: in_another_file("../secret"), "'../secret'"),
    "an absolute path": (lambda: in_another_file("/etc/passwd"), "'/etc/passwd'"),
    "a device": (lambda: in_another_file("/dev/zero"), "'/dev/zero'"),
    "a null byte": (lambda: in_another_file("a\0b"), "no file"),
    "a folder": (lambda: in_another_file("."), "no file"),
    "a link upwards": (lambda: in_another_file("link"), "no file"),
    "a huge offset": (lambda: in_another_file("beside", offset="9" * 40), "offset"),
    "an offset of words": (lambda: in_another_file("beside", offset="many"), "many"),
    "a negative offset": (lambda: in_another_file("beside", offset="-8"), "-8"),
    "more than the file": (lambda: in_another_file("beside"), "needs"),
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
    "a slice of a million axes": (lambda: many_slices(40), "more than the limit"),
    "a tensor of ten thousand axes": (lambda: many_axes(10_000), "10000 axes"),
    "layers without end": (lambda: many_nodes(1001, 4), "more than 1000 GRU nodes"),
    "weights in common": (lambda: many_nodes(999, 200), "in common"),
    "no nodes": (lambda: onnx.ModelProto(ir_version=8), "without nodes"),
}  # fmt: skip


def adversarial_files() -> dict[str, bytes]:
    """The adversarial models as files, by what is wrong with them."""
    return {name: make().SerializeToString() for name, (make, _) in ADVERSARIAL.items()}


def constructed(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Models with adversarial values in some fields, or in what the GRU reads from other nodes."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.5:
            model = onnx.ModelProto.FromString(good)
            for _ in range(rng.choice((1, 1, 2, 5))):
                _change_field(model, rng)
        else:
            model = _random_graph(rng)
        yield model.SerializeToString()


def _change_field(message, rng):
    """Replaces, removes or repeats the value of a random field of a message or of one in it."""
    fields = [field for field, _ in message.ListFields()]
    inner = [field for field in fields if field.message_type is not None]
    if inner and rng.random() < 0.9:
        field = rng.choice(inner)
        value = getattr(message, field.name)
        if not field.is_repeated:
            _change_field(value, rng)
        elif rng.random() < 0.1:
            value.extend([value[0]] * rng.choice((1, 100)))
        else:
            _change_field(rng.choice(value), rng)
        return
    field = rng.choice(fields or message.DESCRIPTOR.fields)
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return
    value = _hostile_scalar(field, rng)
    if field.is_repeated:
        values = [value] * rng.choice((1, 33, 10_000))
        message.ClearField(field.name)
        if field.message_type is None:
            getattr(message, field.name).extend(values)
    elif field.message_type is None:
        setattr(message, field.name, value)


def _hostile_scalar(field, rng):
    """A value of the type of a field that holds no messages."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(STRANGE).replace("\ud7ff", "x")
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice((float("nan"), float("inf"), -1.0))
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 63
    return rng.choice([number for number in NUMBERS if 0 <= number < 1 << bits])


def _random_graph(rng):
    """Nodes of evaluated operators, with adversarial axes, shapes, starts and types."""
    arrays = {f"n{at}": np.array([number], np.int64) for at, number in enumerate(NUMBERS[:-1])}
    arrays |= {
        "none": np.zeros(0, np.int64),
        "wide": np.zeros(rng.choice((33, 100_000)), np.int64),
        "shape": np.array([rng.choice(NUMBERS) for _ in range(rng.choice((1, 3, 40)))], np.int64),
        "nan": np.full((3, 3), np.nan, np.float32),
        "large": np.zeros((1000, 1000), np.float32),
    }
    known = ["X", *"WRB", *arrays]
    operators = ["Concat", "Expand", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]
    operators += ["Add", "Cast", "ConstantOfShape", "Dropout", "Identity", "ReduceSum", "GRU"]
    nodes = []
    for at in range(rng.choice((1, 3, 10, 100, 900))):
        operator = rng.choice(operators)
        inputs = [rng.choice(known) for _ in range(rng.choice((1, 2, 2, 3, 5)))]
        options = {}
        if operator == "Concat":
            options = {"axis": rng.choice((-1, 0, 0, 1, 40))}
        elif operator == "Cast":
            options = {"to": rng.choice((1, 7, 10, 11, 16, 8, 999))}
        elif operator == "Transpose":
            options = {"perm": rng.sample(range(3), 3)}
        nodes.append(node(operator, inputs, f"r{at}", **options))
        known.append(f"r{at}")
    return followed_by(*nodes, further=arrays)
