"""Flax NNX modules of layers over sequences."""

import inspect
from typing import Any, ClassVar, Literal, TypedDict, Unpack, overload

import jax
from flax import nnx

from gru_jax.nn.nnx_cells import (
    CELL_ARGUMENTS,
    GRUCell,
    LSTMCell,
    RecurrentCell,
    RNNCell,
    dtype_of,
)
from gru_jax.nn.sequence import (
    cast_inputs,
    check_cell_options,
    check_options,
    reject_unknown,
    run_sequence,
)
from gru_jax.stack import Merge, Stack
from gru_jax.typing import Array, Checkpoint, ImplementationName, Lengths, TimeMask

RandomSource = nnx.Rngs | nnx.RngStream | Array | None


class CallOptions(TypedDict, total=False):
    """Keyword arguments of a call that do not change the type of its result."""

    initial_carry: Any
    seq_lengths: Lengths | None
    mask: TimeMask | None
    starts: TimeMask | None
    time_major: bool | None
    reverse: bool | None
    deterministic: bool | None
    rngs: RandomSource


CALL_ARGUMENTS = (*CallOptions.__annotations__, "return_carry")


class RecurrentLayers(nnx.Module):
    """Layers of any cell over sequences; the base class of :class:`GRU`, :class:`LSTM`, ...

    The interface is that of :class:`flax.nnx.RNN`.

    Args:
        in_features: D, features of an input.
        hidden_features: H, features of each cell's state.
        num_layers: number of layers.
        bidirectional: whether every layer also reads backward.
        merge: how the outputs of two directions are combined: ``"concat"``, ``"sum"``,
            ``"mean"`` or ``"product"``.
        residual: whether a layer's input is added to its output, from the second layer on.
        dropout: the dropout rate, in training, of the outputs of every layer but the last. With
            a single layer it has no effect, which is a UserWarning.
        deterministic: disables dropout; ``module.eval()`` and ``module.train()`` set it.
        time_major: inputs are (T, *batch, D) instead of (*batch, T, D).
        reverse: swap the direction in which each cell reads; outputs stay aligned with inputs.
        return_carry: return ``(carry, outputs)``.
        implementation: as for :func:`gru_jax.unroll`.
        checkpoint: as for :func:`gru_jax.unroll`.
        rngs: its ``params`` stream initialises the parameters, its ``dropout`` stream samples
            the dropout masks.
        **cell_options: keyword arguments of the cell module: ``init_cell``, ``dtype``,
            ``param_dtype``, metadata, and those of the core's initialiser.

    Raises:
        TypeError, ValueError: an option that is not valid.
    """

    cell_type: ClassVar[type[RecurrentCell]] = RecurrentCell

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
        implementation: ImplementationName | None = None,
        checkpoint: Checkpoint = None,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        check_options(
            num_layers=num_layers,
            merge=merge,
            dropout=dropout,
            implementation=implementation,
            checkpoint=checkpoint,
            bidirectional=bidirectional,
            residual=residual,
            deterministic=deterministic,
            time_major=time_major,
            reverse=reverse,
            return_carry=return_carry,
        )
        init_cell = cell_options.get("init_cell") or self.cell_type.default_init
        core_options = [name for name in cell_options if name not in CELL_ARGUMENTS]
        own = list(inspect.signature(RecurrentLayers.__init__).parameters)[3:-2]
        check_cell_options(type(self).__name__, init_cell, core_options, (*own, *CELL_ARGUMENTS))
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
                for layer in range(num_layers)
            ]
        )
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.bidirectional = bidirectional
        self.merge: Merge = merge
        self.residual = residual
        self.dropout = float(dropout)
        self.deterministic = deterministic
        self.time_major = time_major
        self.reverse = reverse
        self.return_carry = return_carry
        self.implementation: ImplementationName | None = implementation
        self.checkpoint: Checkpoint = checkpoint
        # A single layer samples no masks. The stream is forked all the same, if there is one, so
        # that the number of layers does not change what is initialised from it afterwards.
        forks = dropout and (num_layers > 1 or hasattr(rngs, "dropout"))
        self.rngs = rngs.dropout.fork() if forks else nnx.data(None)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets what :func:`flax.nnx.view` changes.

        Args:
            deterministic: disables dropout.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    @property
    def stack(self) -> Stack:
        """The parameters as the core's functions take them."""
        layers = tuple(tuple(cell.params for cell in layer) for layer in self.layers)
        return Stack(layers, merge=self.merge, residual=self.residual)

    @overload
    def __call__(
        self, inputs: Array, *, return_carry: Literal[True], **options: Unpack[CallOptions]
    ) -> tuple[Any, Array]: ...
    @overload
    def __call__(
        self, inputs: Array, *, return_carry: Literal[False], **options: Unpack[CallOptions]
    ) -> Array: ...
    @overload
    def __call__(
        self, inputs: Array, *, return_carry: bool | None = None, **options: Unpack[CallOptions]
    ) -> Any: ...
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
        rngs: RandomSource = None,
        **unknown: Any,
    ) -> Any:
        """Runs the layers; omitted arguments default to those of the constructor.

        Args:
            inputs: (*batch, T, D), or (T, *batch, D) if time-major.
            initial_carry: a carry with the structure of the returned one, in tuples or lists; None
                for zeros or the learned initial state.
            seq_lengths: (*batch,), as ``lengths`` of :func:`gru_jax.unroll`.
            mask: (*batch, T), or (T, *batch) if time-major, as for :func:`gru_jax.unroll`.
            starts: shaped like ``mask``, as for :func:`gru_jax.unroll`.
            time_major: see the class.
            reverse: see the class.
            return_carry: see the class.
            deterministic: see the class.
            rngs: source of the dropout masks; by default the module's own.

        Returns:
            Outputs (*batch, T, out_features), or time-major; with ``return_carry`` a tuple of the
            carry and the outputs. The carry is ``carry[layer][direction]``; the level of a single
            layer or a single direction is omitted, as in :class:`flax.nnx.RNN` and
            :class:`flax.nnx.Bidirectional`. A state of an LSTM is a :class:`gru_jax.LSTMState`
            (h, c), where Flax's LSTM has (c, h).

        Raises:
            TypeError, ValueError, NotImplementedError: as :func:`gru_jax.unroll`; ValueError if
                dropout has an effect and there is no source of randomness.
        """
        reject_unknown(f"the call of {type(self).__name__}", unknown, CALL_ARGUMENTS)
        deterministic = self.deterministic if deterministic is None else deterministic
        dropout = 0.0 if deterministic or len(self.layers) == 1 else self.dropout
        stack = self.stack
        return run_sequence(
            stack,
            cast_inputs(inputs, self.layers[0][0].dtype, dtype_of(stack)),
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            starts=starts,
            time_major=self.time_major if time_major is None else time_major,
            return_carry=self.return_carry if return_carry is None else return_carry,
            reverse=self.reverse if reverse is None else reverse,
            dropout=dropout,
            key=_next_key(self.rngs if rngs is None else rngs) if dropout else None,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
        )


class GRU(RecurrentLayers):
    """Layers of GRUs over sequences; see :class:`RecurrentLayers`."""

    cell_type = GRUCell


class LSTM(RecurrentLayers):
    """Layers of LSTMs over sequences; see :class:`RecurrentLayers`.

    A state in the carry is a :class:`gru_jax.LSTMState` (h, c), where Flax's LSTM has (c, h).
    """

    cell_type = LSTMCell


class RNN(RecurrentLayers):
    """Layers of plain RNNs over sequences; see :class:`RecurrentLayers`."""

    cell_type = RNNCell


def _next_key(rngs: RandomSource) -> Array:
    if rngs is None:
        raise ValueError("rngs must be given if dropout was set after the module was created")
    if isinstance(rngs, jax.Array):
        return rngs
    return rngs.dropout() if isinstance(rngs, nnx.Rngs) else rngs()
