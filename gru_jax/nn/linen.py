"""Flax Linen modules: thin shells around the core."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gru_jax._unroll import step
from gru_jax._unroll.api import Checkpoint
from gru_jax.cells import GRUParams, init
from gru_jax.cells.base import accum_dtype
from gru_jax.cells.gru import Reset
from gru_jax.nn.sequence import run_sequence
from gru_jax.stack import Merge, Stack
from gru_jax.typing import Array, DType, Initializer, Lengths, Shape, TimeMask


class GRUConfig(nn.Module):
    """What describes a GRU's parameters in both modules.

    Attributes:
        features: H, features of the state.
        dtype: inputs are cast to it, and products run in it; None leaves them as they are.
        param_dtype: of all parameters.
        reset, bias, learned_h0, kernel_init, recurrent_kernel_init, bias_init, update_bias: as
            for :func:`gru_jax.init`. Initialisers may be wrapped by ``nn.with_partitioning``.
    """

    features: int
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    reset: Reset = "after"
    bias: bool = True
    learned_h0: bool = False
    kernel_init: str | Initializer = "glorot"
    recurrent_kernel_init: str | Initializer = "orthogonal"
    bias_init: str | Initializer = "zeros"
    update_bias: float = 0.0

    def options(self) -> dict[str, Any]:
        """The attributes above by name."""
        names = (field.name for field in dataclasses.fields(GRUConfig))
        return {name: getattr(self, name) for name in names if name not in ("parent", "name")}

    def cast(self, inputs: Array) -> Array:
        """The inputs in the dtype asked for."""
        return inputs if self.dtype is None else jnp.asarray(inputs, self.dtype)


class GRUCell(GRUConfig, nn.RNNCellBase):
    """A GRU's step, which drops into :class:`flax.linen.RNN`."""

    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """One step: carry (*batch, H) and inputs (*batch, D) to (carry, outputs)."""
        inputs = self.cast(inputs)
        params = self.params(inputs.shape[-1])
        carry = step(params, carry, inputs)
        return carry, params.output(carry).astype(inputs.dtype)

    @nn.compact
    def params(self, input_size: int) -> GRUParams:
        """The parameters as the core's functions param_init them, drawn at initialisation."""
        options = self.options()
        del options["features"], options["dtype"]
        dtype = options.pop("param_dtype")

        def init_params(key: Array) -> GRUParams:
            return init(key, input_size, self.features, dtype=dtype, **options)

        shapes = jax.eval_shape(init_params, jax.random.key(0))
        drawn = init_params(self.make_rng("params")) if self.is_initializing() else None

        def param_init(key: Array, name: str) -> Array:
            # Outside of initialisation, Linen asks for no more than the shape.
            return getattr(init_params(key) if drawn is None else drawn, name)

        arrays = {
            field.name: self.param(field.name, param_init, field.name)
            for field in dataclasses.fields(GRUParams)
            if not field.metadata.get("static") and getattr(shapes, field.name) is not None
        }
        return GRUParams(**arrays, reset=self.reset)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: Shape) -> Array:
        """Zeros (*batch, H); ``rng`` is Linen's convention and not used.

        Raises:
            ValueError: the initial state is learned, and Linen has no parameters at hand here.
        """
        del rng
        if self.learned_h0:
            raise ValueError("learned_h0 needs gru_jax.nn.linen.GRU, not a cell in nn.RNN")
        shape = (*input_shape[:-1], self.features)
        return jnp.zeros(shape, accum_dtype(self.param_dtype))

    @property
    def num_feature_axes(self) -> int:
        """How many trailing axes of an input belong to one step."""
        return GRUParams.num_feature_axes


class GRU(GRUConfig):
    """Layers of GRUs over sequences, in the manner of :class:`flax.linen.RNN`.

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
    implementation: str | None = None
    checkpoint: Checkpoint = None

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
    ) -> Any:
        """Runs the layers; see :meth:`gru_jax.nn.GRU.__call__`.

        With ``deterministic=False`` the ``dropout`` stream draws the masks.
        """
        inputs = self.cast(inputs)
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        size = inputs.shape[-1]
        layers = []
        for layer in range(self.num_layers):
            cells = [
                GRUCell(**self.options(), name=f"layer_{layer}_{direction}")
                for direction in directions
            ]
            layers.append(tuple(cell.params(size) for cell in cells))
            size = self.features * (len(directions) if self.merge == "concat" else 1)

        dropout = 0.0 if deterministic else self.dropout
        return run_sequence(
            Stack(tuple(layers), merge=self.merge, residual=self.residual),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            starts=starts,
            time_major=self.time_major,
            reverse=self.reverse,
            return_carry=self.return_carry,
            dropout=dropout,
            key=self.make_rng("dropout") if dropout else None,
            implementation=self.implementation,
            checkpoint=self.checkpoint,
        )
