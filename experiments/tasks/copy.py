"""The copy memory task: repeat ten symbols after a long delay."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import plots
from experiments.evaluation import mean_over_rows
from experiments.export_spec import OneHot, Standardize, make_export_spec
from experiments.generated import TEST, VALIDATION, training_batches
from experiments.models.recurrent import build_network
from experiments.models.state_gradients import LastStepLoss
from experiments.task import Task
from experiments.tasks.configs import CopyConfig as Config
from experiments.typing import Array, Metrics, Params, Split

COPY_LENGTH = 10
BLANK, SYMBOLS, SIGNAL = 0, 8, 9
INPUTS = 10


class Copies(NamedTuple):
    """Input and target symbols, both (N, T + 20)."""

    inputs: Array
    targets: Array


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to generated sequences; `data_dir` is not used."""
    del data_dir
    # Validation and test sequences do not depend on the seed of the run.
    splits: dict[Split, Copies] = {
        "validation": sample_copies(config.held_out, config.length, (VALIDATION,)),
        "test": sample_copies(config.held_out, config.length, (TEST,)),
    }
    is_scalar = config.inputs == "scalar"
    pre_post = Standardize(mean=0.0, deviation=1.0) if is_scalar else OneHot(INPUTS)
    dtype = "float32" if is_scalar else "int32"
    network = build_network(
        config.model,
        1 if is_scalar else INPUTS,
        config.classes,
        readout="every step",
        seed=config.seed,
    )

    def sample(number: int, seed: tuple[int, ...]) -> Copies:
        return sample_copies(number, config.length, seed)

    def features(inputs: Array) -> jax.Array:
        return pre_post.before(jnp.asarray(inputs, dtype))

    def logits_of(params: Params, inputs: Array, key: jax.Array | None = None) -> jax.Array:
        return network.apply(params, features(inputs), key=key)

    def loss(
        params: Params, batch: Copies, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = logits_of(params, batch.inputs, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        is_recalled = logits[:, -COPY_LENGTH:].argmax(-1) == batch.targets[:, -COPY_LENGTH:]
        return losses.mean(), {"recalled": jnp.mean(is_recalled)}

    @jax.jit
    def means(params: Params, batch: Copies) -> dict[str, jax.Array]:
        value, auxiliary = loss(params, batch, None)
        return {"cross_entropy": value, **auxiliary}

    def evaluate(params: Params, split: Split) -> Metrics:
        return mean_over_rows(means, params, splits[split])

    def plot(params: Params, directory: Path) -> None:
        logits = np.asarray(jax.jit(logits_of)(params, splits["test"].inputs[:1]))[0]
        plots.confidence(
            np.asarray(jax.nn.softmax(logits))[-COPY_LENGTH:].T,
            splits["test"].targets[0, -COPY_LENGTH:],
            f"The last {COPY_LENGTH} steps of a test sequence,\n"
            f"{config.length} after the first ones",
            directory / "recall.png",
        )

    return Task(
        params=network.params,
        loss=loss,
        batch_at=training_batches(
            sample, config.seed, config.training.batch_size, config.train_sequences
        ),
        evaluate=evaluate,
        metric_labels={
            "cross_entropy": "cross-entropy per step (nats)",
            "recalled": "fraction of the symbols recalled",
        },
        loss_metric="cross_entropy",
        monitor="cross_entropy",
        baselines=partial(baselines, config.length),
        plot=plot,
        export_spec=make_export_spec(
            network,
            pre_post,
            ("batch", "time"),
            ("batch", "time", config.classes),
            dtype=dtype,
        ),
        last_step_loss=LastStepLoss(
            network,
            features(splits["test"].inputs),
            splits["test"].targets[:, -1],
            optax.softmax_cross_entropy_with_integer_labels,
            description="the cross-entropy of the last step, at which the tenth symbol is due, "
            f"{config.length + COPY_LENGTH} steps after it was read",
            baseline="without memory",
        ),
    )


def sample_copies(number: int, length: int, seed: tuple[int, ...]) -> Copies:
    """Samples sequences of ten of eight symbols, the delay, and the signal to repeat them.

    As in Bai et al. 2018 (arXiv 1803.01271, section 5.1), the delay has `length - 1` blanks, and
    the last eleven inputs are the signal.
    """
    random = np.random.default_rng(seed)
    symbols = random.integers(1, SYMBOLS + 1, (number, COPY_LENGTH), dtype=np.int32)
    inputs = np.full((number, length + 2 * COPY_LENGTH), BLANK, np.int32)
    inputs[:, :COPY_LENGTH] = symbols
    inputs[:, -COPY_LENGTH - 1 :] = SIGNAL
    targets = np.full_like(inputs, BLANK)
    targets[:, -COPY_LENGTH:] = symbols
    return Copies(inputs, targets)


def baselines(length: int) -> dict[str, Metrics]:
    """Returns the metrics of a model that knows where the symbols are, but not which."""
    steps = length + 2 * COPY_LENGTH
    metrics = {"cross_entropy": COPY_LENGTH * np.log(SYMBOLS) / steps, "recalled": 1 / SYMBOLS}
    return {"without memory": metrics}
