"""Building of the task of a config: its data and its network."""

from pathlib import Path

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.optimizers import make_optimizer
from experiments.task import Task
from experiments.tasks import is_outside, load_task
from experiments.tasks.outside import place


def build_task(config: ExperimentConfig, data_dir: Path) -> Task:
    """Returns the task of a config; first checks its optimiser, which needs Optax and so JAX.

    Raises:
        UserError: an invalid optimiser, or data that is absent or invalid; for a task from outside
            also a failed import in its `build`, or a result that is no task.
    """
    make_optimizer(config, accumulate_by_weight=False)
    build = load_task(config.task).build
    if not is_outside(config.task):
        return build(config, data_dir)
    try:
        task = build(config, data_dir)
    except ImportError as error:
        raise UserError(f"build of {config.task} cannot import: {place(error)}.") from error
    if not isinstance(task, Task):
        raise UserError(
            f"build of {config.task} returned {type(task).__name__}, but should return a "
            "gru_jax_experiments.Task."
        )
    return task
