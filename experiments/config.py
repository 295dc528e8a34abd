"""What an experiment's YAML file may say: frozen models whose fields are also the options."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cell = Literal["gru", "lstm", "rnn"]


class Frozen(BaseModel, frozen=True):
    """A part of a config: unknown keys, wrong types and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(Frozen, frozen=True):
    """Recurrent layers, dropout and a linear readout."""

    cell: Cell = Field(default="gru", description="Recurrent cell.")
    hidden_size: int = Field(default=64, ge=1, description="Units of a layer, in each direction.")
    num_layers: int = Field(default=1, ge=1, description="Layers, one upon another.")
    bidirectional: bool = Field(default=False, description="Also read each sequence from its end.")
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
    time_scales: float | None = Field(
        default=None,
        ge=2,
        description="Longest of the times, in steps, over which units forget at the start, the "
        "shortest being 2: sets the biases of the GRU's update gate and of the LSTM's forget gate. "
        "None for the cell's own biases, 0 and 1. The plain RNN has no such gate.",
    )
    reset: Literal["after", "before"] = Field(
        default="after", description="GRU only: the reset gate applies after or before the product."
    )


class OptimizerConfig(Frozen, frozen=True):
    """The optimiser and the learning rate over the steps."""

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = Field(
        default="adam", description="Optimiser."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Highest learning rate.")
    schedule: Literal["constant", "cosine", "exponential", "linear"] = Field(
        default="constant", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps over which it rises from zero.")
    final_scale: float = Field(
        default=0.0, ge=0, le=1, description="Last learning rate, as a fraction of the highest."
    )
    max_grad_norm: float | None = Field(
        default=None, gt=0, description="Largest global norm of the gradient, or None."
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Weight decay, decoupled from the gradient by adamw alone."
    )
    accumulate_steps: int = Field(
        default=1, ge=1, description="Batches whose gradients make one update."
    )


class TrainingConfig(Frozen, frozen=True):
    """How long to train, on how much at once, and how often to look."""

    steps: int = Field(default=1000, ge=1, description="Steps, one batch each.")
    batch_size: int = Field(default=32, ge=1, description="Sequences in a batch.")
    eval_every: int = Field(default=100, ge=1, description="Steps between validations, each saved.")
    log_every: int = Field(default=10, ge=1, description="Steps between rows of the training loss.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Validations without a better figure before stopping, or None.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints kept; the best is kept besides."
    )


class Range(Frozen, frozen=True):
    """What a sweep draws a value from: numbers from `low` to `high`, or `choices`."""

    low: int | float | None = Field(default=None, description="Least value.")
    high: int | float | None = Field(default=None, description="Greatest value.")
    log: bool = Field(default=False, description="Whether their logarithms are drawn evenly.")
    choices: list[bool | int | float | str] | None = Field(
        default=None, min_length=1, description="All values."
    )

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        """Refuses what is neither a range nor choices, or both."""
        given = [bound is not None for bound in (self.low, self.high)]
        if any(given) == (self.choices is not None) or any(given) != all(given):
            raise ValueError("should have low and high, or choices.")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low is {self.low}, but should be less than high, {self.high}.")
            if self.log and self.low <= 0:
                raise ValueError(f"low is {self.low}, but should be above 0 where log is true.")
        return self


class Published(Frozen, frozen=True):
    """A test figure that others published, which ours are held against."""

    model: str = Field(min_length=1, description="What it is of, and whose it is.")
    figure: str = Field(description="Which of the task's test figures it is.")
    value: float = Field(description="The figure, in the unit of ours.")
    source: str = Field(min_length=1, description="Where it stands.")


# What describes an experiment and changes nothing about a run; no options either.
DESCRIPTIVE = frozenset({"cells", "published", "sweep"})


class ExperimentConfig(Frozen, frozen=True):
    """What every experiment has; a task adds fields of its own."""

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
        default={}, description="For the command sweep: by key, what to draw values from."
    )
    cells: dict[Cell, dict[str, bool | int | float | str | None]] = Field(
        default={},
        description="For the command compare: by cell, by key, values of that cell's own.",
    )
    published: list[Published] = Field(
        default=[], description="Figures that others published, shown beside the run's own."
    )

    @model_validator(mode="after")
    def check_schedule(self) -> Self:
        """Refuses a schedule that cannot be drawn."""
        optimizer, steps = self.optimizer, self.training.steps
        if optimizer.warmup_steps >= steps:
            raise ValueError(
                f"optimizer.warmup_steps is {optimizer.warmup_steps}, but should be less than "
                f"training.steps, which is {steps}."
            )
        if optimizer.schedule == "exponential" and optimizer.final_scale == 0:
            raise ValueError(
                "optimizer.final_scale is 0, but should be above it: "
                "the exponential schedule never comes to zero."
            )
        return self
