"""Loaded parameters have memory of their own."""

import jax
import numpy as np
import pytest

import gru_jax
from gru_jax.interop import haiku, keras, linen, torch
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
    loaded = load(source)
    expected = jax.tree.map(np.array, loaded)
    for leaf in jax.tree.leaves(source):
        leaf[...] = np.nan
    assert_equal(loaded, expected)
