"""Dropout: the masks of Flax, and axes that are checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gru_jax.dropout import dropout

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (5, 3, 4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("broadcast_dims", [(), (0,), (-1,), (0, 1, 2), (0, -3)], ids=str)
def test_it_is_that_of_flax(broadcast_dims, dtype):
    xs = XS.astype(dtype)
    theirs = nnx.Dropout(0.4, broadcast_dims=broadcast_dims)(xs, rngs=KEY)
    ours = dropout(KEY, xs, 0.4, broadcast_dims=broadcast_dims)
    assert ours.dtype == xs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_a_mask_is_the_same_along_an_axis_and_differs_along_the_others():
    dropped = dropout(KEY, jnp.ones((50, 4, 16)), 0.5, broadcast_dims=(0,)) == 0
    np.testing.assert_array_equal(dropped, jnp.broadcast_to(dropped[:1], dropped.shape))
    assert 0 < dropped[0].sum() < dropped[0].size
    assert len({row.tobytes() for row in np.asarray(dropped[0])}) == 4


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("axis", [3, -4, 7])
def test_an_axis_that_is_not_there_is_rejected(axis, rate):
    with pytest.raises(ValueError, match="broadcast_dims must be axes of xs, which has 3; got"):
        dropout(KEY, XS, rate, broadcast_dims=(axis,))


def test_axes_that_are_no_sequence_are_named():
    with pytest.raises(TypeError, match="broadcast_dims must be a sequence of axes, got 0"):
        dropout(KEY, XS, 0.5, broadcast_dims=0)
