"""Flax NNX modules: parameters held as `nnx.Param`, everything else done by the core."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from gru_jax import _checks
from gru_jax._unroll import initial_state, step
from gru_jax._unroll.api import Checkpoint
from gru_jax.cells import Cell, init, init_lstm, init_rnn
from gru_jax.nn.sequence import run_sequence
from gru_jax.stack import Merge, Stack
from gru_jax.typing import Array, DType, Initializer, Lengths, Shape, State, TimeMask

Metadata = Mapping[str, Any]
NO_METADATA: Metadata = MappingProxyType({})
Streams = nnx.Rngs | nnx.RngStream | Array | None


class RecurrentCell(nnx.RNNCellBase):
    """One step of a cell; the base of :class:`GRUCell`, :class:`LSTMCell`, :class:`RNNCell`.

    It drops into :class:`flax.nnx.RNN`. Each field of the core's parameters is an
    :class:`flax.nnx.Param` of the same name; :attr:`params` puts them together again.

    Args:
        in_features: D, features of an input.
        hidden_features: H, features of the state.
        dtype: inputs are cast to it, and products run in it; None leaves the inputs as they are.
        param_dtype: of all parameters.
        kernel_metadata: metadata of ``w_x``, such as ``{"out_sharding": ("data", "model")}``;
            an initialiser wrapped by :func:`flax.nnx.with_partitioning` does the same.
        recurrent_kernel_metadata: of ``w_h``.
        bias_metadata: of the biases.
        rngs: the ``params`` stream draws the parameters.
        **cell_options: those of the core's initialiser (:func:`gru_jax.init`,
            :func:`gru_jax.init_lstm`, :func:`gru_jax.init_rnn`).
    """

    init_params: ClassVar[Callable[..., Cell]]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        dtype: DType | None = None,
        param_dtype: DType = jnp.float32,
        kernel_metadata: Metadata = NO_METADATA,
        recurrent_kernel_metadata: Metadata = NO_METADATA,
        bias_metadata: Metadata = NO_METADATA,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        params = type(self).init_params(
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
        kept = {}
        for field in dataclasses.fields(params):
            value = getattr(params, field.name)
            if field.metadata.get("static"):
                kept[field.name] = value
            elif value is not None:
                setattr(self, field.name, nnx.Param(value, **metadata.get(field.name, {})))
        self._params_type = type(params)
        self._static_fields = tuple(kept.items())

    @property
    def params(self) -> Cell:
        """The parameters as the core's functions take them."""
        arrays = {
            field.name: getattr(self, field.name)[...]
            for field in dataclasses.fields(self._params_type)
            if isinstance(getattr(self, field.name, None), nnx.Variable)
        }
        return self._params_type(**arrays, **dict(self._static_fields))

    def __call__(self, carry: State, inputs: Array) -> tuple[State, Array]:
        """One step: carry (*batch, H) and inputs (*batch, D) to (carry, outputs)."""
        inputs = _cast(inputs, self.dtype)
        params = self.params
        carry = step(params, carry, inputs)
        return carry, params.output(carry).astype(inputs.dtype)

    def initialize_carry(
        self,
        input_shape: Shape,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> State:
        """The carry before the first step: zeros or the learned one, or drawn by ``carry_init``.

        Args:
            input_shape: of the inputs of one step, (*batch, D).
            rngs: the ``carry`` stream; needed by ``carry_init`` only.
            carry_init: draws each array of the carry.

        Raises:
            ValueError: ``carry_init`` without ``rngs``.
        """
        carry = initial_state(self.params, tuple(input_shape[:-1]))
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError("rngs must be given where carry_init is")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)

    @property
    def num_feature_axes(self) -> int:
        """How many trailing axes of an input belong to one step."""
        return self._params_type.num_feature_axes


class GRUCell(RecurrentCell):
    """A GRU's step, with the recurrent bias ``b_hn`` that :class:`flax.nnx.GRUCell` lacks."""

    init_params = staticmethod(init)


class LSTMCell(RecurrentCell):
    """An LSTM's step; the carry is a :class:`gru_jax.LSTMState` (h, c)."""

    init_params = staticmethod(init_lstm)


class RNNCell(RecurrentCell):
    """A plain RNN's step."""

    init_params = staticmethod(init_rnn)


class Recurrent(nnx.Module):
    """Layers of cells over sequences; the base of :class:`GRU`, :class:`LSTM`, :class:`RNN`.

    Args:
        in_features: D, features of an input.
        hidden_features: H, features of each cell's state.
        num_layers: how many layers.
        bidirectional: whether every layer also reads backward.
        merge: how two directions become one: ``"concat"``, ``"sum"``, ``"mean"``, ``"product"``.
        residual: whether a layer's input is added to its output, from the second layer on.
        dropout: the share of each layer's outputs but the last's that is zeroed in training.
        deterministic: no dropout where True; ``module.eval()`` and ``module.train()`` set it.
        time_major: inputs come as (T, *batch, D) and not as (*batch, T, D).
        reverse: swap the direction in which each cell reads; outputs stay aligned with inputs.
        return_carry: return ``(carry, outputs)``.
        implementation: as for :func:`gru_jax.unroll`.
        checkpoint: as for :func:`gru_jax.unroll`.
        rngs: the ``params`` stream draws the parameters, the ``dropout`` stream the masks.
        **cell_options: those of the cell module: ``dtype``, ``param_dtype``, metadata, and what
            the core's initialiser takes.
    """

    cell_type: ClassVar[type[RecurrentCell]]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        merge: Merge = "concat",
        residual: bool = False,
        dropout: float = 0.0,
        deterministic: bool = False,
        time_major: bool = False,
        reverse: bool = False,
        return_carry: bool = False,
        implementation: str | None = None,
        checkpoint: Checkpoint = None,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        directions = 2 if bidirectional else 1
        self.out_features = hidden_features * (directions if merge == "concat" else 1)
        self.layers = nnx.List(
            [
                nnx.List(
                    [
                        self.cell_type(
                            self.out_features if layer else in_features,
                            hidden_features,
                            rngs=rngs,
                            **cell_options,
                        )
                        for _ in range(directions)
                    ]
                )
                for layer in range(_checks.positive_int("num_layers", num_layers))
            ]
        )
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.bidirectional = bidirectional
        self.merge: Merge = merge
        self.residual = residual
        self.dropout = _checks.probability("dropout", dropout)
        self.deterministic = deterministic
        self.time_major = time_major
        self.reverse = reverse
        self.return_carry = return_carry
        self.implementation = implementation
        self.checkpoint: Checkpoint = checkpoint
        self.rngs = rngs.dropout.fork() if self.dropout else nnx.data(None)

    @property
    def stack(self) -> Stack:
        """The parameters as the core's functions take them."""
        layers = tuple(tuple(cell.params for cell in layer) for layer in self.layers)
        return Stack(layers, merge=self.merge, residual=self.residual)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Lengths | None = None,
        mask: TimeMask | None = None,
        starts: TimeMask | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        return_carry: bool | None = None,
        deterministic: bool | None = None,
        rngs: Streams = None,
    ) -> Any:
        """Runs the layers; arguments left out are those given to the constructor.

        Args:
            inputs: (*batch, T, D), or (T, *batch, D) where time-major.
            initial_carry: of the structure that is returned; None for zeros or the learned one.
            seq_lengths: (*batch,), as ``lengths`` of :func:`gru_jax.unroll`.
            mask: (*batch, T), or (T, *batch) where time-major, as for :func:`gru_jax.unroll`.
            starts: likewise.
            time_major: see the class.
            reverse: see the class.
            return_carry: see the class.
            deterministic: see the class.
            rngs: ``dropout`` randomness to use instead of the module's own.

        Returns:
            Outputs (*batch, T, out_features), or time-major, and before them, if asked for, the
            carry: ``carry[layer][direction]``, where the level of a single layer or of a single
            direction is left out, as :class:`flax.nnx.RNN` and ``Bidirectional`` have it.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        dropout = 0.0 if deterministic else self.dropout
        return run_sequence(
            self.stack,
            _cast(inputs, self.layers[0][0].dtype),
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            starts=starts,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            return_carry=self.return_carry if return_carry is None else return_carry,
            dropout=dropout,
            key=_next_key(self.rngs if rngs is None else rngs) if dropout else None,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
        )


class GRU(Recurrent):
    """Layers of GRUs over sequences, in the manner of :class:`flax.nnx.RNN`."""

    cell_type = GRUCell


class LSTM(Recurrent):
    """Layers of LSTMs over sequences; see :class:`Recurrent`."""

    cell_type = LSTMCell


class RNN(Recurrent):
    """Layers of plain RNNs over sequences; see :class:`Recurrent`."""

    cell_type = RNNCell


def _cast(inputs: Array, dtype: DType | None) -> Array:
    return inputs if dtype is None else jnp.asarray(inputs, dtype)


def _next_key(rngs: Streams) -> Array:
    if rngs is None:
        raise ValueError("rngs must be given where dropout is set after the module was made")
    if isinstance(rngs, jax.Array):
        return rngs
    return rngs.dropout() if isinstance(rngs, nnx.Rngs) else rngs()
