"""Configs of the tasks, apart from their modules: a config is checked before JAX is imported."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from experiments.config import ExperimentConfig, UnidirectionalConfig
from experiments.files import check_local
from experiments.own_data.config import SequencesConfig

DAY = 24
"""Hours."""
PATCH = 2
"""Height and width of the patches of a frame that the network of `video` sees as one pixel."""
PIXELS = 64
"""Pixels of a digit, and time steps of `digits`."""
TRAIN_SEQUENCES = (
    "Sequences of a fixed training set, shuffled in every epoch; None for new ones in each batch."
)
LocalPath = Annotated[str, AfterValidator(check_local)]


class DigitsConfig(ExperimentConfig, frozen=True):
    """Classifies scikit-learn's handwritten digits from one pixel per step."""

    task: Literal["digits"] = "digits"
    noise: float = Field(
        default=0.0,
        ge=0,
        description="Standard deviation of the noise on training pixels, which are in [0, 1].",
    )

    @property
    def sequence_steps(self) -> int:
        return PIXELS


class AddingConfig(ExperimentConfig, frozen=True):
    """Adds the two marked numbers of a sequence (Hochreiter & Schmidhuber 1997, section 5.4)."""

    task: Literal["adding"] = "adding"
    length: int = Field(default=200, ge=2, description="Steps of a sequence, T.")
    train_sequences: int | None = Field(default=None, ge=1, description=TRAIN_SEQUENCES)
    held_out: int = Field(
        default=1000, ge=1, description="Sequences of the validation and of the test split, each."
    )

    @property
    def sequence_steps(self) -> int:
        return self.length

    @property
    def data_elements(self) -> int:
        return 2 * self.length * (2 * self.held_out + (self.train_sequences or 0))


class CopyConfig(ExperimentConfig, frozen=True):
    """Repeats ten symbols after a delay (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016)."""

    task: Literal["copy"] = "copy"
    length: int = Field(default=500, ge=1, description="Delay in steps, T; a sequence has T + 20.")
    inputs: Literal["one-hot", "scalar"] = Field(
        default="one-hot",
        description="Whether a symbol is a one-hot vector, or one feature, its number from 0 to 9.",
    )
    classes: Literal[9, 10] = Field(
        default=9,
        description="Classes of the prediction: the blank and eight symbols; 10 adds the signal, "
        "which is never a target.",
    )
    train_sequences: int | None = Field(default=None, ge=1, description=TRAIN_SEQUENCES)
    held_out: int = Field(
        default=200, ge=1, description="Sequences of the validation and of the test split, each."
    )

    @property
    def sequence_steps(self) -> int:
        return self.length + 20

    @property
    def data_elements(self) -> int:
        return self.sequence_steps * (2 * self.held_out + (self.train_sequences or 0))


class MusicConfig(UnidirectionalConfig, frozen=True):
    """Predicts each frame of a piece from the frames before it."""

    task: Literal["music"] = "music"
    dataset: Literal["jsb", "nottingham"] = Field(default="jsb", description="The data set.")
    data_file: LocalPath | None = Field(
        default=None,
        description="Your own .mat file instead: cells traindata, validdata and testdata of "
        "frames x 88 keys.",
    )
    longest: int = Field(
        default=200,
        ge=2,
        description="Maximum frames of a training piece; longer ones are split.",
    )


class LanguageConfig(UnidirectionalConfig, frozen=True):
    """Predicts each character of a text from those before it."""

    task: Literal["language"] = "language"
    data_file: LocalPath | None = Field(
        default=None,
        description="Your own text instead of Shakespeare, UTF-8. The first 90 % are for training, "
        "the next 5 % for validation.",
    )
    window: int = Field(default=100, ge=1, description="Characters per window of truncated BPTT.")
    sample: int = Field(
        default=600, ge=0, le=1_000_000, description="Characters to sample at the end."
    )

    @property
    def sequence_steps(self) -> int:
        return self.window


class ForecastingConfig(ExperimentConfig, frozen=True):
    """Forecasts all seven columns of ETTh1, or of a file like it."""

    task: Literal["forecasting"] = "forecasting"
    data_file: LocalPath | None = Field(
        default=None,
        description="Your own .csv file instead, one row per hour, with the same columns: date, as "
        "in 2016-07-01 00:00:00, and HUFL, HULL, MUFL, MULL, LUFL, LULL and OT.",
    )
    window: int = Field(default=96, ge=DAY, description="Hours of input.")
    horizon: int = Field(default=24, ge=1, description="Hours of the forecast.")
    columns: Literal["together", "apart"] = Field(
        default="apart",
        description="Whether the network's inputs are all columns together, or one column.",
    )
    segment: int = Field(
        default=1,
        ge=1,
        description="Hours of input per time step (Lin et al. 2023, arXiv 2308.11200).",
    )

    @model_validator(mode="after")
    def check_segment(self) -> Self:
        """Rejects segments that do not divide the window."""
        if self.window % self.segment:
            raise ValueError(
                f"segment is {self.segment}, but should divide window, which is {self.window}."
            )
        return self

    @property
    def sequence_steps(self) -> int:
        return self.window // self.segment


class SpeechConfig(ExperimentConfig, frozen=True):
    """Classifies the Free Spoken Digit Dataset."""

    task: Literal["speech"] = "speech"
    held_out_speaker: (
        Literal["george", "jackson", "lucas", "nicolas", "theo", "yweweler"] | None
    ) = Field(
        default=None,
        description="Speaker of the test split; None for the official split, recordings 0 to 4 "
        "of every speaker.",
    )
    longest: int = Field(default=100, ge=1, description="Maximum frames (10 ms) of a recording.")
    noise: float = Field(
        default=0.0,
        ge=0,
        description="Standard deviation of the noise on training frames, which have 1.",
    )


class TranslationConfig(UnidirectionalConfig, frozen=True):
    """Translates Multi30k from German to English; the encoder is always bidirectional."""

    task: Literal["translation"] = "translation"
    pieces: int = Field(default=4000, ge=8, description="Subword pieces of each language.")
    longest: int = Field(
        default=40,
        ge=1,
        le=10_000,
        description="Maximum pieces of a training sentence and of a translation.",
    )
    length_classes: int = Field(
        default=8,
        ge=1,
        description="Buckets of sentences by length. A batch is padded to the longest sentence of "
        "its bucket; each bucket is compiled separately.",
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="Probability spread uniformly over all pieces."
    )
    beams: int = Field(default=5, ge=1, le=1000, description="Hypotheses of the beam search.")


class VideoConfig(ExperimentConfig, frozen=True):
    """Predicts the next frame of moving digits, after Moving MNIST (Srivastava et al. 2015)."""

    task: Literal["video"] = "video"
    size: int = Field(
        default=24, ge=10, multiple_of=PATCH, description="Height and width of a frame, in pixels."
    )
    frames: int = Field(default=20, ge=4, description="Frames of a film.")
    held_out: int = Field(
        default=200, ge=1, description="Films of the validation and of the test split, each."
    )

    @model_validator(mode="after")
    def check_model(self) -> Self:
        """Rejects options that the network of this task does not support."""
        supported = {
            "cell": "gru",
            "bidirectional": False,
            "dropout": 0.0,
            "dropconnect": 0.0,
            "chrono_bias": None,
        }
        for name, only in supported.items():
            value = getattr(self.model, name)
            if value != only:
                raise ValueError(
                    f"model.{name} is {value!r}, but should be {only!r}: the model of this task is "
                    "a unidirectional convolutional GRU without dropout or chrono initialisation."
                )
        return self

    @property
    def sequence_steps(self) -> int:
        # Every pixel has a state.
        return (self.frames - 1) * (self.size // PATCH) ** 2

    @property
    def data_elements(self) -> int:
        return 2 * self.held_out * self.frames * self.size**2


class RlConfig(UnidirectionalConfig, frozen=True):
    """Learns to act in environments that need memory, by recurrent PPO.

    A training step is `updates_per_step` updates, each a rollout of `training.batch_size`
    environments and the epochs that learn from it.
    """

    task: Literal["rl"] = "rl"
    environment: Literal["memory-chain", "umbrella-chain", "bandit", "cart-pole"] = Field(
        default="memory-chain",
        description="The environment; cart-pole is without its velocities.",
    )
    length: int = Field(
        default=10, ge=1, description="Steps of a chain, over which is to be remembered."
    )
    rollout: int = Field(default=32, ge=1, description="Steps of each environment per update.")
    updates_per_step: int = Field(default=2, ge=1, description="Updates per training step.")
    epochs: int = Field(default=4, ge=1, description="Passes over a rollout.")
    minibatches: int = Field(
        default=2, ge=1, description="Minibatches of a pass; each has whole environments."
    )
    discount: float = Field(default=0.99, ge=0, le=1, description="Discount of rewards, gamma.")
    gae_decay: float = Field(
        default=0.95, ge=0, le=1, description="Decay of the advantage estimate, lambda."
    )
    clip: float = Field(default=0.2, gt=0, description="Largest change of the ratio.")
    value_weight: float = Field(default=0.5, ge=0, description="Weight of the value loss.")
    entropy_weight: float = Field(default=0.01, ge=0, description="Weight of the entropy.")
    memory: bool = Field(
        default=True, description="Whether the state is kept between steps of an episode."
    )
    replay_flags: Literal["starts", "dones"] = Field(
        default="starts",
        description="Flags that reset the state in the loss: those of the rollout, or the flag "
        "after the step, which is a common mistake.",
    )
    held_out: int = Field(
        default=256, ge=1, description="Episodes of the validation and of the test, each."
    )

    @model_validator(mode="after")
    def check_minibatches(self) -> Self:
        """Rejects environments that cannot be split evenly, and regularisers."""
        if self.training.batch_size % self.minibatches:
            raise ValueError(
                f"minibatches is {self.minibatches}, but should divide training.batch_size, which "
                f"is {self.training.batch_size}."
            )
        for name in ("dropout", "dropconnect"):
            if getattr(self.model, name):
                raise ValueError(
                    f"model.{name} is {getattr(self.model, name)}, but should be 0: the policy of "
                    "the rollout and of the loss would differ."
                )
        return self

    @property
    def sequence_steps(self) -> int:
        return self.rollout

    @property
    def sequences_per_step(self) -> int:
        return self.training.batch_size * self.updates_per_step

    @property
    def optimizer_steps(self) -> int:
        return self.training.steps * self.updates_per_step * self.epochs * self.minibatches


CONFIGS: dict[str, type[ExperimentConfig]] = {
    "digits": DigitsConfig,
    "adding": AddingConfig,
    "copy": CopyConfig,
    "music": MusicConfig,
    "language": LanguageConfig,
    "forecasting": ForecastingConfig,
    "speech": SpeechConfig,
    "translation": TranslationConfig,
    "video": VideoConfig,
    "rl": RlConfig,
    "sequences": SequencesConfig,
}
"""The configs by the name of their task; an entry here registers a task."""
