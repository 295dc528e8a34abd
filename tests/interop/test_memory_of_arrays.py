"""Loaded parameters have memory of their own."""

import jax
import numpy as np
import pytest
from flax import nnx as flax_nnx

import gru_jax
from gru_jax.interop import haiku, keras, linen, nnx, torch
from tests.assert_trees import assert_equal

CONVERTERS = {
    "torch": (torch.load, lambda params: torch.dump(params, tensors=False)),
    "keras": (keras.load, keras.dump),
    "linen": (linen.load, linen.dump),
    "haiku": (haiku.load, haiku.dump),
}
ALIGNMENT = 64


def aligned(array):
    """A copy whose memory JAX could take over."""
    content = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    begin = -content.ctypes.data % ALIGNMENT
    copy = content[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("name", CONVERTERS)
def test_arrays_may_change_after_they_were_loaded(name):
    load, dump = CONVERTERS[name]
    reset = "before" if name == "haiku" else "after"
    params = gru_jax.init(jax.random.key(0), 16, 32, reset=reset)
    source = jax.tree.map(lambda leaf: aligned(np.asarray(leaf)), dump(params))
    assert_has_memory_of_its_own(load(source), jax.tree.leaves(source))


def test_arrays_of_a_module_may_change_after_it_was_loaded():
    """Its layout is the canonical one, so nothing has to be copied to reorder gates."""
    graph, state = flax_nnx.split(nnx.dump(gru_jax.init(jax.random.key(0), 16, 32)))
    state = jax.tree.map(lambda leaf: aligned(np.asarray(leaf)), state)
    loaded = nnx.load(flax_nnx.merge(graph, state))
    assert_has_memory_of_its_own(loaded, jax.tree.leaves(state))


def assert_has_memory_of_its_own(loaded, arrays):
    expected = jax.tree.map(np.array, loaded)
    for array in arrays:
        array[...] = np.nan
    assert_equal(loaded, expected)
