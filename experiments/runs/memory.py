"""A lower bound of the memory that a config's training needs, against the machine's."""

import os

from experiments.config import ExperimentConfig, ModelConfig
from experiments.errors import UserError

# Columns of a cell's packed weights, in units.
GATES = {"gru": 3, "lstm": 4, "rnn": 1}
# The parameters themselves, their gradients, and the moments of the optimiser. Of others only the
# first two are sure.
COPIES = {"adam": 4, "adamw": 4, "sgd": 2, "rmsprop": 3}
LEAST_COPIES = 2
BYTES = 4
# Device files of drivers: NVIDIA's, AMD's, and those of TPUs.
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def check_memory(config: ExperimentConfig) -> None:
    """Checks that the recurrent layers, their states and generated data fit into the memory.

    The bound counts, in float32, the weights between units of the recurrent layers, their gradients
    and the optimiser's moments, the states of all steps of a batch, which the backward pass needs,
    and generated data sets. Data files, inputs and readout come on top of that.

    Raises:
        UserError: they do not fit.
    """
    model, batch_size = config.model, config.training.batch_size
    weights = num_weights(model) * COPIES.get(config.optimizer.name, LEAST_COPIES)
    needs = {
        "weights, gradients and optimizer": weights,
        "the states of a batch": num_states(model) * batch_size * config.sequence_steps,
        "generated data": config.data_elements,
    }
    available = machine_memory()
    total = sum(needs.values())
    if available is None or total * BYTES <= available:
        return
    sizes = [
        f"{_gib(size * BYTES)} for {what}" for what, size in needs.items() if size > total / 100
    ]
    raise UserError(
        f"This machine has {_gib(available)} of memory, but this config needs at least "
        f"{' and '.join(sizes)}. The sizes are model.hidden_size {model.hidden_size}, "
        f"model.num_layers {model.num_layers}, training.batch_size {batch_size}, and sequences of "
        f"{config.sequence_steps} steps or more."
    )


def num_weights(model: ModelConfig) -> int:
    """Returns the number of weights between the units of the recurrent layers."""
    # Every cell reads its own state; those above the first layer also read all outputs below.
    directions = _num_directions(model)
    matrices = model.num_layers * directions + (model.num_layers - 1) * directions**2
    return GATES[model.cell] * matrices * model.hidden_size**2


def num_states(model: ModelConfig) -> int:
    """Returns the number of units of all cells."""
    return model.num_layers * _num_directions(model) * model.hidden_size


def machine_memory() -> int | None:
    """Returns the machine's memory in bytes.

    Returns None where the system does not tell it, and on a machine with an accelerator, which may
    have more memory than the machine.
    """
    if any(os.path.exists(path) for path in ACCELERATORS):
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _num_directions(model: ModelConfig) -> int:
    return 2 if model.bidirectional else 1


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
