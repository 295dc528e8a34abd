"""Flax Linen modules, which hold parameters and call the core."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.interpreters import partial_eval

from gru_jax import _checks
from gru_jax._unroll import step, unroll
from gru_jax.cells import Cell, GRUParams, init, init_lstm, init_rnn
from gru_jax.cells.gru import Reset
from gru_jax.nn.sequence import (
    cast_inputs,
    check_cell_options,
    check_options,
    reject_unknown,
    run_sequence,
)
from gru_jax.stack import Merge, Stack
from gru_jax.typing import (
    Array,
    Checkpoint,
    DType,
    ImplementationName,
    Initializer,
    Lengths,
    Shape,
    State,
    TimeMask,
)


class CellConfig(nn.Module):
    """The configuration of a cell, common to the cells and to the modules over sequences.

    Attributes:
        features: H, features of the state.
        dtype: inputs are cast to it, and matmuls run in it; None keeps the inputs' dtype, but for
            integers and booleans, which get that of the parameters.
        param_dtype: dtype of all parameters.
        init_cell: initialises one cell, ``(key, input_size, features, *, dtype, **cell_options)``;
            :func:`gru_jax.init` by default.
        cell_options: further keyword arguments of ``init_cell``.
    """

    features: int
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    init_cell: Callable[..., Cell] = init
    cell_options: Mapping[str, Any] = FrozenDict()

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        del arguments
        known = [field.name for field in dataclasses.fields(cls)]
        reject_unknown(cls.__name__, [name for name in options if name not in known], known)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope is None:
            # Constructed by the user, and not cloned by Linen: the options are not checked yet.
            self.check_options()

    @nn.nowrap
    def check_options(self) -> None:
        """Raises TypeError or ValueError if an option is not valid."""
        _checks.positive_int("features", self.features)
        if self.dtype is not None:
            _checks.floating_dtype("dtype", self.dtype)
        options = self.all_cell_options()
        own = (field.name for field in dataclasses.fields(self))
        check_cell_options(type(self).__name__, self.init_cell, options, own)
        self.param_shapes(1)

    @nn.nowrap
    def all_cell_options(self) -> dict[str, Any]:
        """The keyword arguments of ``init_cell``."""
        return dict(self.cell_options)

    @nn.nowrap
    def init_params(self, key: Array, input_size: int) -> Cell:
        """Initialises the parameters of one cell."""
        options = self.all_cell_options()
        return self.init_cell(key, input_size, self.features, dtype=self.param_dtype, **options)

    @nn.nowrap
    def param_shapes(self, input_size: int) -> Any:
        """The shapes of :meth:`init_params`, with the metadata of its initialisers."""
        return jax.eval_shape(lambda key: self.init_params(key, input_size), jax.random.key(0))

    @nn.nowrap
    def cast(self, inputs: Array) -> Array:
        """The inputs in ``dtype``, or without one as floating point numbers."""
        return cast_inputs(inputs, self.dtype, self.param_dtype)


class GRUConfig(nn.Module):
    """The options of :func:`gru_jax.init` as attributes.

    Attributes:
        reset, bias, learned_h0, kernel_init, recurrent_kernel_init, bias_init, update_bias,
            chrono_bias: as for :func:`gru_jax.init`. Initialisers may be wrapped by
            ``nn.with_partitioning``.
    """

    reset: Reset = "after"
    bias: bool = True
    learned_h0: bool = False
    kernel_init: str | Initializer = "glorot"
    recurrent_kernel_init: str | Initializer = "orthogonal"
    bias_init: str | Initializer = "zeros"
    update_bias: float = 0.0
    chrono_bias: float | None = None

    @nn.nowrap
    def all_cell_options(self) -> dict[str, Any]:
        """The attributes above by name."""
        names = (field.name for field in dataclasses.fields(GRUConfig))
        return {name: getattr(self, name) for name in names if name not in ("parent", "name")}


class RecurrentCell(CellConfig, nn.RNNCellBase):
    """One step of any cell, for use in :class:`flax.linen.RNN`."""

    def __call__(self, carry: State, inputs: Array) -> tuple[State, Array]:
        """One step: carry (*batch, H) and inputs (*batch, D) to (carry, outputs)."""
        inputs = self.cast(inputs)
        params = self.params(inputs.shape[-1])
        carry = step(params, carry, inputs)
        return carry, params.output(carry).astype(inputs.dtype)

    @nn.compact
    def params(self, input_size: int) -> Cell:
        """The parameters as the core's functions take them."""
        shapes = self.param_shapes(input_size)
        initialising = self.is_initializing()
        initial = self.init_params(self.make_rng("params"), input_size) if initialising else None

        def param_init(key: Array, name: str) -> Array:
            # Except at initialisation, Linen evaluates only the shape.
            params = self.init_params(key, input_size) if initial is None else initial
            return getattr(params, name)

        arrays = {
            field.name: self.param(field.name, param_init, field.name)
            for field in dataclasses.fields(shapes)
            if not field.metadata.get("static") and getattr(shapes, field.name) is not None
        }
        return dataclasses.replace(shapes, **arrays)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: Shape) -> State:
        """The cell's initial state, (*batch, H); ``rng`` is part of Linen's interface, not used.

        Raises:
            ValueError: the initial state is learned; Linen's interface passes no parameters.
        """
        del rng
        cell = nn.meta.unbox(self.param_shapes(input_shape[-1]))
        if _has_learned_initial_state(cell):
            raise ValueError(
                "a learned initial state is not supported by a cell in nn.RNN, which would ignore "
                "it; use gru_jax.nn.linen.GRU or RecurrentLayers"
            )
        # It does not depend on the parameters' values.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cell)
        return zeros.initial_state(tuple(input_shape[:-1]))

    @property
    def num_feature_axes(self) -> int:
        """How many trailing axes of an input belong to one step."""
        return self.param_shapes(1).num_feature_axes


def _has_learned_initial_state(cell: Cell) -> bool:
    """Whether a cell, here of shapes, makes its initial state from parameters."""
    jaxpr = jax.make_jaxpr(lambda cell: cell.initial_state())(cell)
    _, used = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.out_avals))
    return any(used)


class GRUCell(GRUConfig, RecurrentCell):
    """One step of a GRU, for use in :class:`flax.linen.RNN`."""


class LSTMCell(RecurrentCell):
    """One step of an LSTM; the carry is a :class:`gru_jax.LSTMState` (h, c), Flax's is (c, h)."""

    init_cell: Callable[..., Cell] = init_lstm


class RNNCell(RecurrentCell):
    """One step of a plain RNN."""

    init_cell: Callable[..., Cell] = init_rnn


CALL_ARGUMENTS = ("initial_carry", "seq_lengths", "mask", "starts", "deterministic")


class RecurrentLayers(CellConfig):
    """Layers of any cell over sequences, with the interface of :class:`flax.linen.RNN`.

    Attributes:
        num_layers, bidirectional, merge, residual, dropout, time_major, reverse, return_carry,
            implementation, checkpoint: as for :class:`gru_jax.nn.GRU`.
    """

    num_layers: int = 1
    bidirectional: bool = False
    merge: Merge = "concat"
    residual: bool = False
    dropout: float = 0.0
    time_major: bool = False
    reverse: bool = False
    return_carry: bool = False
    implementation: ImplementationName | None = None
    checkpoint: Checkpoint = None

    @nn.nowrap
    def check_options(self) -> None:
        super().check_options()
        check_options(
            num_layers=self.num_layers,
            merge=self.merge,
            dropout=self.dropout,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
            bidirectional=self.bidirectional,
            residual=self.residual,
            time_major=self.time_major,
            reverse=self.reverse,
            return_carry=self.return_carry,
        )

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Lengths | None = None,
        mask: TimeMask | None = None,
        starts: TimeMask | None = None,
        deterministic: bool = True,
        **unknown: Any,
    ) -> Any:
        """Runs the layers; see :meth:`gru_jax.nn.GRU.__call__`.

        With ``deterministic=False`` the ``dropout`` stream samples the masks.
        """
        reject_unknown(f"the call of {type(self).__name__}", unknown, CALL_ARGUMENTS)
        inputs = self.cast(inputs)
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        size = inputs.shape[-1]
        layers = []
        for layer in range(self.num_layers):
            cells = [
                RecurrentCell(
                    self.features,
                    param_dtype=self.param_dtype,
                    init_cell=self.init_cell,
                    cell_options=self.all_cell_options(),
                    name=f"layer_{layer}_{direction}",
                )
                for direction in directions
            ]
            layers.append(tuple(cell.params(size) for cell in cells))
            size = self.features * (len(directions) if self.merge == "concat" else 1)

        dropout = 0.0 if deterministic or self.num_layers == 1 else self.dropout
        return run_sequence(
            Stack(tuple(layers), merge=self.merge, residual=self.residual),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            starts=starts,
            time_major=self.time_major,
            return_carry=self.return_carry,
            reverse=self.reverse,
            dropout=dropout,
            key=self.make_rng("dropout") if dropout else None,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
        )


class GRU(GRUConfig, RecurrentLayers):
    """Layers of GRUs over sequences; see :class:`RecurrentLayers`."""


class LSTM(RecurrentLayers):
    """Layers of LSTMs over sequences; see :class:`RecurrentLayers`.

    A state in the carry is a :class:`gru_jax.LSTMState` (h, c), where Flax's LSTM has (c, h).
    """

    init_cell: Callable[..., Cell] = init_lstm


class RNN(RecurrentLayers):
    """Layers of plain RNNs over sequences; see :class:`RecurrentLayers`."""

    init_cell: Callable[..., Cell] = init_rnn


class ScannedRNN(nn.Module):
    """A GRU with resets, with the interface and the parameters of PureJaxRL's ``ScannedRNN``.

    Replaces that class, which many repositories of reinforcement learning have a copy of: the names
    of the parameters are the same (``ScannedRNN_0/GRUCell_0/...``), so that checkpoints load as
    they are, and so are the values at initialisation.

    Attributes:
        features: H, features of the state; None for those of the carry.
        implementation, checkpoint: as for :func:`gru_jax.unroll`.
    """

    features: int | None = None
    implementation: ImplementationName | None = None
    checkpoint: Checkpoint = None

    @nn.compact
    def __call__(self, carry: Array, x: tuple[Array, TimeMask]) -> tuple[Array, Array]:
        """Runs over time.

        Args:
            carry: the state (*batch, H) before the first step; the batch is environments, agents.
            x: ``(ins, resets)``: inputs (T, *batch, D), and flags (T, *batch), booleans or numbers.
                Where a flag is true, zeros replace the state before the inputs are read. It is the
                ``done`` of the step before, see :func:`gru_jax.starts_from_dones`.

        Returns:
            The state after the last step, and outputs (T, *batch, H).

        Raises:
            TypeError, ValueError: arguments that do not fit, as :func:`gru_jax.unroll`.
        """
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise TypeError(f"x must be a tuple (ins, resets), got {type(x).__name__}")
        ins, resets = x
        # Integers, too, become numbers below, as Flax's own cell makes them.
        ins, carry = jnp.asarray(ins), _checks.floating_array("carry", carry)
        _checks.shape("carry", carry, (*ins.shape[1:-1], *carry.shape[-1:]), "(*batch, hidden)")
        if self.features not in (None, carry.shape[-1]):
            raise ValueError(
                f"carry has {carry.shape[-1]} features, expected {self.features!r}: features of "
                "the module"
            )
        cell = nn.GRUCell(carry.shape[-1], name="GRUCell_0")
        if self.is_initializing():
            cell(carry, ins[0])
        dense = self.variables["params"]["GRUCell_0"]
        ins = jnp.asarray(ins, jnp.promote_types(ins.dtype, dense["ir"]["kernel"].dtype))

        def packed(side: str, leaf: str) -> Array:
            return jnp.concatenate([dense[side + gate][leaf] for gate in "rzn"], axis=-1)

        params = GRUParams(
            packed("i", "kernel"), packed("h", "kernel"), packed("i", "bias"), dense["hn"]["bias"]
        )
        return unroll(
            params,
            ins,
            carry,
            starts=resets,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
        )

    @staticmethod
    def initialize_carry(batch_size: int | Shape, hidden_size: int) -> Array:
        """The state before the first step: zeros (*batch, H), of an integer or a shape."""
        batch_shape = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
        return jnp.zeros((*batch_shape, hidden_size))
