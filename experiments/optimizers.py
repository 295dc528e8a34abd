"""The optimiser of a config."""

from typing import Any

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from gru_jax import training


def make_optimizer(config: ExperimentConfig, *, accumulate_by_weight: bool) -> Any:
    """Returns the optimiser of a config.

    Args:
        config: the experiment.
        accumulate_by_weight: whether batches count by their valid elements.

    Raises:
        UserError: Optax has no such optimiser or schedule, or not with these options.
    """
    of_config = config.optimizer
    try:
        return training.make_optimizer(
            of_config.learning_rate,
            name=of_config.name,
            options=of_config.options,
            schedule=of_config.schedule,
            schedule_options=of_config.schedule_options.options,
            steps=config.optimizer_steps,
            warmup_steps=of_config.warmup_steps,
            final_scale=of_config.final_scale,
            max_grad_norm=of_config.max_grad_norm,
            weight_decay=of_config.weight_decay,
            # The published results were trained so.
            weight_decay_mask=None,
            accumulate_steps=of_config.accumulate_steps,
            accumulate_by_weight=accumulate_by_weight,
        )
    except (TypeError, ValueError) as error:
        message = f"optimizer: {error}"
        raise UserError(message if message.endswith("?") else f"{message}.") from None
