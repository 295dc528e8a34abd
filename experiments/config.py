"""Configs of experiments: frozen models whose fields are YAML keys and options."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from experiments.suggest import did_you_mean

# The names in `gru_jax.cells.CELLS`, which would import JAX; a test compares them.
Cell = Literal["gru", "lstm", "rnn"]

LARGEST_INTEGER = 2**31 - 1


# The name of a folder, too.
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*( [a-z0-9]+)*$")]


class FrozenModel(BaseModel, frozen=True):
    """Part of a config. Unknown keys, wrong types and non-finite numbers are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def check_integers(self) -> Self:
        """Rejects integers that no array's axis and no counter has."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if type(value) is int and abs(value) > LARGEST_INTEGER:
                raise ValueError(f"{name} is too large: it should be at most {LARGEST_INTEGER:,}.")
        return self


class ModelConfig(FrozenModel, frozen=True):
    """Recurrent layers, dropout and a linear readout."""

    cell: Cell = Field(default="gru", description="Recurrent cell.")
    hidden_size: int = Field(default=64, ge=1, description="Units of a layer, in each direction.")
    num_layers: int = Field(default=1, ge=1, le=1000, description="Number of stacked layers.")
    bidirectional: bool = Field(default=False, description="Whether layers are bidirectional.")
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Rate of dropout between layers and before the readout.",
    )
    dropconnect: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Rate at which recurrent weights are zeroed, per batch.",
    )
    chrono_bias: float | None = Field(
        default=None,
        ge=2,
        description="Longest time scale, in steps, of the chrono initialisation, the shortest "
        "being 2: sets the biases of the GRU's update gate and of both the LSTM's forget gate "
        "and its input gate. None for the cell's own biases. The plain RNN has no such gate.",
    )
    reset: Literal["after", "before"] = Field(
        default="after", description="GRU only: the reset gate applies after or before the matmul."
    )


class OpenModel(FrozenModel, frozen=True, extra="allow"):
    """Part of a config whose further keys are options of a function of Optax.

    Their names and types are checked against the function's signature when the task is built:
    Optax cannot be imported without JAX.
    """

    @property
    def options(self) -> dict[str, Any]:
        """The further keys and their values."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def check_options(self) -> Self:
        """Rejects values that are no numbers, texts, or numbers by step."""
        for name, value in self.options.items():
            if not _is_plain(value):
                raise ValueError(f"{name} is {value!r:.80}, but should be a number or a text.")
        return self


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is int and _is_number(inner) for key, inner in value.items())
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= LARGEST_INTEGER
    return type(value) is float and math.isfinite(value)


class ScheduleOptions(OpenModel, frozen=True):
    """Options of a schedule of Optax, such as power of polynomial_schedule."""


# A test compares them with Optax. Of these a wrong option is told before JAX is imported.
OPTIMIZER_OPTIONS = {
    "adam": ("b1", "b2", "eps", "eps_root", "mu_dtype", "nesterov"),
    "adamw": ("b1", "b2", "eps", "eps_root", "mu_dtype", "nesterov"),
    "sgd": ("momentum", "nesterov", "accumulator_dtype"),
    "rmsprop": (
        "decay",
        "eps",
        "initial_scale",
        "eps_in_sqrt",
        "centered",
        "momentum",
        "nesterov",
        "bias_correction",
    ),
}


class OptimizerConfig(OpenModel, frozen=True):
    """Optimiser, its options by Optax's names, such as b1, and learning-rate schedule."""

    name: str = Field(
        default="adam", description="Optimiser: a function of Optax, such as adamw, lion or sgd."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    schedule: str = Field(
        default="constant",
        description="Decay of the learning rate after the warm-up: constant, cosine, exponential, "
        "linear, or a function of Optax, such as polynomial_schedule.",
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up from zero.")
    final_scale: float = Field(
        default=0.0, ge=0, le=1, description="Final learning rate, as a fraction of the peak."
    )
    max_grad_norm: float | None = Field(
        default=None, gt=0, description="Maximum global norm of the gradient, or None."
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="Weight decay of all parameters, biases too; that of the optimiser, as with "
        "adamw, or added to the gradient.",
    )
    accumulate_steps: int = Field(
        default=1,
        ge=1,
        description="Batches per parameter update, which count by their valid elements.",
    )
    schedule_options: ScheduleOptions = Field(
        default=ScheduleOptions(), description="Options of a schedule of Optax."
    )

    @field_validator("schedule")
    @classmethod
    def check_schedule_name(cls, name: str) -> str:
        """Rejects what no function of Optax is called."""
        ours = ("constant", "cosine", "exponential", "linear")
        if name not in ours and not name.endswith(("_schedule", "_decay")):
            raise ValueError(
                f"is {name!r:.80}, but should be {', '.join(ours)}, or a function of Optax such as "
                f"polynomial_schedule.{did_you_mean(name, ours)}"
            )
        return name

    @model_validator(mode="after")
    def check_option_names(self) -> Self:
        """Rejects options that an optimiser does not have, of those that are known here."""
        known = OPTIMIZER_OPTIONS.get(self.name)
        for option, value in self.options.items():
            if known is not None and option not in known:
                nearest = did_you_mean(option, [*type(self).model_fields, *known])
                raise ValueError(
                    f"unknown key {option} (its value is {value!r:.80}): {self.name} has no such "
                    f"option.{nearest or ' It has ' + ', '.join(known) + '.'}"
                )
        return self


class TrainingConfig(FrozenModel, frozen=True):
    """Length of the training, batch size, and intervals of evaluation and logging."""

    steps: int = Field(default=1000, ge=1, description="Train steps, one batch each.")
    batch_size: int = Field(default=32, ge=1, description="Sequences per batch.")
    eval_every: int = Field(
        default=100, ge=1, description="Steps between validations; each saves a checkpoint."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between logged training losses.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Validations without improvement before early stopping, or None.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Latest checkpoints to retain, in addition to the best."
    )
    profile_steps: list[int] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="First and last step of a trace for XProf and TensorBoard, which is written to "
        "profile/ of the run, or None.",
    )

    @model_validator(mode="after")
    def check_profile(self) -> Self:
        """Rejects a trace of steps that the run does not have."""
        if self.profile_steps is not None:
            first, last = self.profile_steps
            if not 1 <= first <= last <= self.steps:
                raise ValueError(
                    f"profile_steps is {self.profile_steps}, but should be a first and a last step "
                    f"from 1 to {self.steps}."
                )
        return self

    @model_serializer(mode="wrap")
    def without_profile(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out `profile_steps` if it is None, so that earlier runs have the same config."""
        values = serialize(self)
        if self.profile_steps is None:
            values.pop("profile_steps", None)
        return values


class Range(FrozenModel, frozen=True):
    """Search space of one value of a sweep: numbers from `low` to `high`, or `choices`."""

    low: int | float | None = Field(default=None, description="Least value.")
    high: int | float | None = Field(default=None, description="Greatest value.")
    log: bool = Field(default=False, description="Whether to sample uniformly in the logarithm.")
    choices: list[bool | int | float | str | None] | None = Field(
        default=None, min_length=1, max_length=1000, description="All values."
    )

    def values(self) -> list[bool | int | float | str | None]:
        """Returns the bounds, or the choices."""
        return [self.low, self.high] if self.choices is None else self.choices

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        """Rejects anything but exactly one of a range and choices."""
        given = [bound is not None for bound in (self.low, self.high)]
        if any(given) == (self.choices is not None) or any(given) != all(given):
            raise ValueError("should have low and high, or choices.")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low is {self.low}, but should be less than high, {self.high}.")
            if self.log and self.low <= 0:
                raise ValueError(f"low is {self.low}, but should be above 0 where log is true.")
        return self


class Published(FrozenModel, frozen=True):
    """A published test metric, for comparison."""

    model: str = Field(min_length=1, description="Model and authors.")
    metric: str = Field(description="Name of the metric, one of the task's test metrics.")
    value: float = Field(description="Its value, in the task's unit.")
    source: str = Field(min_length=1, description="Publication.")


# Keys that describe an experiment and do not affect a run. They are no command-line options.
METADATA_FIELDS = frozenset({"cells", "published", "sweep", "variants"})


class ExperimentConfig(FrozenModel, frozen=True):
    """Fields of every experiment; a task adds its own."""

    task: str
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed of the initial parameters, the data order and dropout.",
    )
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sweep: dict[str, Range] = Field(
        default={},
        description="For the commands sweep and compare --search: search spaces by dotted key.",
    )
    cells: dict[Cell, dict[str, bool | int | float | str | None]] = Field(
        default={},
        description="For the command compare: by cell, values by dotted key for that cell only.",
    )
    variants: dict[VariantName, dict[str, bool | int | float | str | None]] = Field(
        default={},
        description="For the command compare: further rows by name, the config's own cell with "
        "other values by dotted key.",
    )
    published: list[Published] = Field(
        default=[], description="Published metrics, shown next to the run's own."
    )

    @property
    def sequence_steps(self) -> int:
        """Least time steps of the sequences in a training batch."""
        return 1

    @property
    def sequences_per_step(self) -> int:
        """Sequences of a training step."""
        return self.training.batch_size

    @property
    def optimizer_steps(self) -> int:
        """Steps of the optimiser, and so of the learning rate's schedule."""
        return self.training.steps

    @property
    def data_elements(self) -> int:
        """Least elements of the arrays that a task without data files generates first."""
        return 0

    @model_validator(mode="after")
    def check_schedule(self) -> Self:
        """Rejects inconsistent settings of the learning-rate schedule."""
        optimizer, steps = self.optimizer, self.optimizer_steps
        if optimizer.warmup_steps >= steps:
            raise ValueError(
                f"optimizer.warmup_steps is {optimizer.warmup_steps}, but should be less than "
                f"the steps of the optimiser, {steps}."
            )
        if optimizer.schedule == "exponential" and optimizer.final_scale == 0:
            raise ValueError(
                "optimizer.final_scale is 0, but should be above it: "
                "the exponential schedule never comes to zero."
            )
        return self


class UnidirectionalConfig(ExperimentConfig, frozen=True):
    """An experiment whose model predicts what comes next, and so must not be bidirectional."""

    @model_validator(mode="after")
    def check_direction(self) -> Self:
        """Rejects a model that sees its targets."""
        if self.model.bidirectional:
            raise ValueError(
                "model.bidirectional is True, but should be False: "
                "a bidirectional model sees the values that it is to predict."
            )
        return self
