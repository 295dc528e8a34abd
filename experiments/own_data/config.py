"""Config of the task `sequences`: which file, what is to be predicted, and how it is split."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from experiments.config import ExperimentConfig, FrozenModel
from experiments.files import check_local

Problem = Literal[
    "forecasting", "classification", "regression", "labelling", "next-token", "imputation"
]
Format = Literal["table", "arrays", "audio", "text", "huggingface", "function"]


class DataConfig(FrozenModel, frozen=True):
    """Where the sequences are, and what their columns mean."""

    path: Annotated[str, AfterValidator(check_local)] = Field(
        description="File or folder, relative to the working directory; the name of a data set of "
        "Hugging Face, or package.module:function."
    )
    format: Format = Field(default="table", description="Kind of file.")
    target: list[str] = Field(
        default=[], description="Columns to predict; none in next-token and imputation."
    )
    inputs: list[str] | None = Field(
        default=None, description="Columns to predict from; None for all others."
    )
    id: str | None = Field(
        default=None, description="Column that names the sequence of a row; None for one sequence."
    )
    time: str | None = Field(
        default=None, description="Column by which rows are ordered; None for the file's order."
    )
    step: str | None = Field(
        default=None,
        description="Time between rows, such as 1h, or a number; missing rows are added and "
        "masked. None if rows need not be evenly spaced.",
    )
    known_ahead: list[str] = Field(
        default=[], description="Forecasting: columns that are known at future times, too."
    )
    categories: list[str] = Field(
        default=[], description="Columns of numbers that name categories; texts always do."
    )
    decimal: Literal[".", ","] = Field(default=".", description="Decimal mark of a text file.")
    separator: str | None = Field(
        default=None, max_length=1, description="Separator of a text file; None to detect it."
    )
    split: Literal["time", "sequence", "file"] = Field(
        default="sequence",
        description="What divides train, validation and test: the time within each sequence, whole "
        "sequences, or what the files say.",
    )
    validation: float = Field(default=0.15, gt=0, lt=1, description="Fraction for validation.")
    test: float = Field(default=0.15, gt=0, lt=1, description="Fraction for the test.")
    scale: Literal["all", "sequence", "none"] = Field(
        default="all",
        description="Whether numbers are standardised by mean and deviation of all training "
        "sequences, of each sequence's training part, or not at all.",
    )


class SequencesConfig(ExperimentConfig, frozen=True):
    """Learns from sequences of your own."""

    task: Literal["sequences"] = "sequences"
    problem: Problem = Field(description="What is to be predicted.")
    data: DataConfig = Field(description="The data.")
    window: int = Field(
        default=48, ge=1, description="Steps of input in forecasting, imputation and next-token."
    )
    horizon: int = Field(default=1, ge=1, description="Forecasting: steps to predict.")
    season: int | None = Field(
        default=None, ge=1, description="Forecasting: steps of a period, for the naive baseline."
    )
    vocabulary: int | None = Field(
        default=None,
        ge=8,
        description="Next-token: pieces of a SentencePiece model fitted to the training text; None "
        "for characters.",
    )
