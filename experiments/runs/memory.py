"""A lower bound of the memory that a config's training needs, against the machine's."""

import os

from experiments.config import ExperimentConfig
from experiments.errors import UserError

# The parameters themselves, their gradients, and the moments of the optimiser.
COPIES = {"adam": 4, "adamw": 4, "sgd": 2, "rmsprop": 3}
BYTES = 4


def check_memory(config: ExperimentConfig) -> None:
    """Checks that recurrent weights and states of one step fit into the machine's memory.

    The bound counts the recurrent weights of one gate, their gradients and the optimiser's moments,
    and the states of one step, all in float32. Everything else comes on top of that.

    Raises:
        UserError: they do not fit.
    """
    available = _machine_memory()
    model = config.model
    num_cells = model.num_layers * (2 if model.bidirectional else 1)
    weights = num_cells * model.hidden_size**2 * BYTES
    of_parameters = weights * COPIES[config.optimizer.name]
    of_states = num_cells * config.training.batch_size * model.hidden_size * BYTES
    if available is None or of_parameters + of_states <= available:
        return
    raise UserError(
        f"model.hidden_size {model.hidden_size} and training.batch_size "
        f"{config.training.batch_size} need at least {_gib(of_parameters)} for recurrent weights, "
        f"gradients and optimizer, and {_gib(of_states)} for the states of a step; this machine "
        f"has {_gib(available)}."
    )


def _machine_memory() -> int | None:
    """Returns the machine's memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
