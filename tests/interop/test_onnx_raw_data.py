"""The data of initializers of large models, which are taken out before the model is parsed."""

import jax
import pytest

import gru_jax

onnx = pytest.importorskip("onnx")

from google.protobuf.message import DecodeError  # noqa: E402

from gru_jax.interop import onnx as converter  # noqa: E402
from gru_jax.interop.onnx import file  # noqa: E402
from tests.assert_trees import assert_equal  # noqa: E402


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """All models count as large, and all data of more than 7 bytes."""
    monkeypatch.setattr(file, "MAX_COPIED_BYTES", 0)
    monkeypatch.setattr(file, "MIN_SHARED_BYTES", 8)


def stack():
    keys = jax.random.split(jax.random.key(0), 4)
    first = tuple(gru_jax.init(key, 3, 2) for key in keys[:2])
    return gru_jax.Stack((first, tuple(gru_jax.init(key, 4, 2) for key in keys[2:])))


def field(key, content):
    return bytes([key]) + file._to_varint(len(content)) + content


def test_the_parameters_are_those_of_the_parsed_model():
    for params in (gru_jax.init(jax.random.key(1), 5, 300), stack()):
        model = converter.dump(params)
        content = model.SerializeToString()
        _, raw_data = file.open_model(content)
        assert len(raw_data) >= 2
        assert_equal(converter.load(content), params)
        assert_equal(converter.load(model), params)


def test_fields_that_occur_again_are_merged_as_the_parser_does():
    model = converter.dump(gru_jax.init(jax.random.key(2), 3, 2))
    tensors = [tensor.SerializeToString() for tensor in model.graph.initializer]
    graph, raw_data = file.RAW_DATA_KEYS[0], file.RAW_DATA_KEYS[2]
    data = [tensor.raw_data for tensor in model.graph.initializer]
    large = next(index for index, each in enumerate(data) if len(each) >= 8)
    other = field(raw_data, bytes(len(data[large])))
    for again in (
        # The last of several fields counts: zeros, the data once more, data that are too short.
        tensors[large] + other,
        tensors[large] + other + field(raw_data, data[large]),
        tensors[large] + field(raw_data, b"\1\2\3"),
    ):
        rest = onnx.ModelProto.FromString(model.SerializeToString())
        del rest.graph.initializer[large]
        # The other initializers come in a second field of the graph.
        second = onnx.GraphProto(initializer=rest.graph.initializer)
        del rest.graph.initializer[:]
        content = rest.SerializeToString()
        content += field(graph, field(file.RAW_DATA_KEYS[1], again))
        content += field(graph, second.SerializeToString())
        parsed = onnx.ModelProto.FromString(content)
        expected = [tensor.raw_data for tensor in parsed.graph.initializer]
        reduced, taken = file.open_model(content)
        found = [
            bytes(taken.get(index, tensor.raw_data))
            for index, tensor in enumerate(reduced.graph.initializer)
        ]
        assert found == expected


def test_models_that_are_cut_off_are_rejected_as_by_the_parser():
    content = converter.dump(gru_jax.init(jax.random.key(3), 2, 2)).SerializeToString()
    rejected = 0
    for end in range(1, len(content)):
        try:
            expected = onnx.ModelProto.FromString(content[:end])
        except DecodeError:
            rejected += 1
            with pytest.raises(ValueError, match="not an ONNX model"):
                file.open_model(content[:end])
        else:
            if expected.graph.node:
                file.open_model(content[:end])
    assert rejected
