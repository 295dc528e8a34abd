"""Flax NNX modules of one step, which hold parameters as `nnx.Param` and call the core."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from gru_jax import _checks
from gru_jax._unroll import initial_state, step
from gru_jax.cells import Cell, init, init_lstm, init_rnn
from gru_jax.nn.sequence import cast_inputs, check_cell_options
from gru_jax.stack import Stack
from gru_jax.typing import Array, DType, Initializer, Shape, State

Metadata = Mapping[str, Any]
CELL_ARGUMENTS = ("init_cell", "dtype", "param_dtype", "kernel_metadata")
CELL_ARGUMENTS += ("recurrent_kernel_metadata", "bias_metadata")
NO_METADATA: Metadata = MappingProxyType({})


class RecurrentCell(nnx.RNNCellBase):
    """One step of any cell; the base class of :class:`GRUCell`, :class:`LSTMCell`, ...

    It works in :class:`flax.nnx.RNN`. Each array of the core's parameters is a
    :class:`flax.nnx.Param` of the same name; :attr:`params` returns the core's parameters.

    Args:
        in_features: D, features of an input.
        hidden_features: H, features of the state.
        init_cell: initialises the cell, ``(key, in_features, hidden_features, *, dtype,
            **cell_options)``; by default that of the class, here :func:`gru_jax.init`.
        dtype: inputs are cast to it, and matmuls run in it; None keeps the inputs' dtype, but for
            integers and booleans, which get that of the parameters.
        param_dtype: dtype of all parameters.
        kernel_metadata: metadata of ``w_x``, such as ``{"out_sharding": ("data", "model")}``;
            an initialiser wrapped by :func:`flax.nnx.with_partitioning` has the same effect.
        recurrent_kernel_metadata: metadata of ``w_h``.
        bias_metadata: metadata of the biases.
        rngs: its ``params`` stream initialises the parameters.
        **cell_options: further keyword arguments of ``init_cell`` (see :func:`gru_jax.init`,
            :func:`gru_jax.init_lstm`, :func:`gru_jax.init_rnn`).

    Raises:
        TypeError, ValueError: as ``init_cell``.
    """

    default_init: ClassVar[Callable[..., Cell]] = staticmethod(init)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        init_cell: Callable[..., Cell] | None = None,
        dtype: DType | None = None,
        param_dtype: DType = jnp.float32,
        kernel_metadata: Metadata = NO_METADATA,
        recurrent_kernel_metadata: Metadata = NO_METADATA,
        bias_metadata: Metadata = NO_METADATA,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        init_cell = type(self).default_init if init_cell is None else init_cell
        check_cell_options(type(self).__name__, init_cell, cell_options, CELL_ARGUMENTS)
        if dtype is not None:
            _checks.floating_dtype("dtype", dtype)
        _checks.instance("rngs", rngs, nnx.Rngs, "a flax.nnx.Rngs, such as nnx.Rngs(0)")
        params = init_cell(
            rngs.params(), in_features, hidden_features, dtype=param_dtype, **cell_options
        )
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.dtype = dtype
        metadata = {
            "w_x": kernel_metadata,
            "w_h": recurrent_kernel_metadata,
            "b": bias_metadata,
            "b_hn": bias_metadata,
        }
        static = {}
        for field in dataclasses.fields(params):
            value = getattr(params, field.name)
            if field.metadata.get("static"):
                static[field.name] = value
            elif value is not None:
                setattr(self, field.name, nnx.Param(value, **metadata.get(field.name, {})))
        self._params_type = type(params)
        self._static_fields = tuple(static.items())

    @property
    def params(self) -> Cell:
        """The parameters as the core's functions take them."""
        arrays = {}
        for field in dataclasses.fields(self._params_type):
            if not field.metadata.get("static"):
                value = getattr(self, field.name, None)
                # A caller may have replaced a Variable by an array.
                arrays[field.name] = value[...] if isinstance(value, nnx.Variable) else value
        return self._params_type(**arrays, **dict(self._static_fields))

    def __call__(self, carry: State, inputs: Array) -> tuple[State, Array]:
        """One step: carry (*batch, H) and inputs (*batch, D) to (carry, outputs)."""
        params = self.params
        inputs = cast_inputs(inputs, self.dtype, dtype_of(params))
        carry = step(params, carry, inputs)
        return carry, params.output(carry).astype(inputs.dtype)

    def initialize_carry(
        self,
        input_shape: Shape,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> State:
        """The carry before the first step: zeros, the learned one, or that of ``carry_init``.

        Args:
            input_shape: shape of the inputs of one step, (*batch, D).
            rngs: its ``carry`` stream is used by ``carry_init``.
            carry_init: initialises each array of the carry.

        Raises:
            ValueError: ``carry_init`` without ``rngs``.
        """
        carry = initial_state(self.params, tuple(input_shape[:-1]))
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError("rngs must be given with carry_init")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)

    @property
    def num_feature_axes(self) -> int:
        """How many trailing axes of an input belong to one step."""
        return self._params_type.num_feature_axes


class GRUCell(RecurrentCell):
    """One step of a GRU, with the recurrent bias ``b_hn`` that :class:`flax.nnx.GRUCell` lacks."""


class LSTMCell(RecurrentCell):
    """One step of an LSTM; the carry is a :class:`gru_jax.LSTMState` (h, c), Flax's is (c, h)."""

    default_init = staticmethod(init_lstm)


class RNNCell(RecurrentCell):
    """One step of a plain RNN."""

    default_init = staticmethod(init_rnn)


def dtype_of(params: Cell | Stack) -> DType:
    """Returns the dtype of the first parameter."""
    return jax.tree.leaves(params)[0].dtype
