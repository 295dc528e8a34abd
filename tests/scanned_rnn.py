"""The class that many repositories of reinforcement learning have a copy of, written with Flax."""

import functools

import jax.numpy as jnp
from flax import linen as nn


class ScannedRNN(nn.Module):
    """A GRU that is reset to zeros where a flag is set, after PureJaxRL's class of this name."""

    @functools.partial(
        nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, carry, x):
        ins, resets = x
        zeros = self.initialize_carry(*carry.shape)
        carry = jnp.where(resets[:, None], zeros, carry)
        return nn.GRUCell(features=carry.shape[-1])(carry, ins)

    @staticmethod
    def initialize_carry(batch_size, hidden_size):
        return jnp.zeros((batch_size, hidden_size))
