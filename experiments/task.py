"""Interface between a task and the commands that train it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from threadpoolctl import threadpool_limits

from experiments.export_spec import ExportSpec
from experiments.models.state_gradients import LastStepLoss
from experiments.typing import Batch, LossFunction, Metrics, Params, Split

HIGHER_IS_BETTER = frozenset(
    {"accuracy", "auc", "bleu", "f1", "precision", "r2", "recall", "recalled", "return"}
)
"""The metrics of all tasks of which a higher value is better; of others, a lower one is."""
NEITHER_IS_BETTER = frozenset({"steps"})
"""The metrics that describe what a model does: in some environments, short episodes are good."""


@dataclass(frozen=True)
class DataRecord:
    """What was decided about one's own data.

    Attributes:
        sentences: about five, printed before the training.
        values: values of JSON from which the model is restored without the data.
    """

    sentences: tuple[str, ...]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """An experiment's data and model, bound to its config.

    For two configs that differ only in the seed, only `params` and `batch_at` may differ.

    Attributes:
        params: the initial parameters, a pytree.
        loss: (params, batch, key) -> (loss, auxiliary scalars by name), differentiable; with a
            carry (params, batch, key, carry) -> (loss, (auxiliary scalars, carry)). None where
            there is an `update`.
        update: in place of `loss`, (optimizer, TrainState, batch, seed) -> (TrainState, scalars by
            name), a whole training step; None for gradient descent on `loss`.
        batch_at: step -> batch, a pytree of arrays; a function of (seed, step) only.
        evaluate: (params, split) -> metrics by name, over the whole split. The parameters may be
            replicated on a mesh, over whose devices and processes the split is then divided.
        metric_labels: name and unit of each metric, for plots.
        loss_metric: the metric that is the loss over a whole split.
        train_metric: the training metric that is plotted with it.
        monitor: the validation metric that selects the best parameters.
        baselines: () -> test metrics of models that need no network, by name.
        plot: (params, directory) -> None; writes the task's own plots and texts there.
        batch_weight: batch -> number of elements over which the loss is a mean, where batches
            differ in it; None where they do not.
        carry: the carry of the first step, where steps pass one on.
        export_spec: what `export` writes as a program; None if the task does not support it.
        last_step_loss: the loss that `gradients` differentiates, on the test split; None if the
            task has none.
        data: what was decided about one's own data, a run's `data.json`; None for other tasks.
    """

    params: Params
    loss: LossFunction | None
    batch_at: Callable[[int], Batch]
    evaluate: Callable[[Params, Split], Metrics]
    metric_labels: Mapping[str, str]
    loss_metric: str
    monitor: str
    baselines: Callable[[], dict[str, Metrics]]
    plot: Callable[[Params, Path], None]
    update: Callable[..., Any] | None = None
    train_metric: str = "loss"
    batch_weight: Callable[[Batch], Any] | None = None
    carry: Any = None
    export_spec: ExportSpec | None = None
    last_step_loss: LastStepLoss | None = None
    data: DataRecord | None = None

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether a lower or a higher value of `monitor` is better."""
        return "max" if self.monitor in HIGHER_IS_BETTER else "min"

    def evaluate_baselines(self) -> dict[str, Metrics]:
        """Returns what `baselines` returns, computed by one thread of the linear algebra.

        The number of threads decides in which order products are added up, so that metrics would
        depend on the machine. Where other processes use the cores, threads also wait for one
        another.
        """
        with threadpool_limits(1, user_api="blas"):
            return self.baselines()


class Build(Protocol):
    """A task module's function that binds a config to data and model."""

    def __call__(self, config: Any, data_dir: Path, /) -> Task: ...
