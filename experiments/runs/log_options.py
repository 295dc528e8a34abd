"""The option `--log`, parsed before JAX is imported."""

from experiments.errors import UserError
from experiments.extras import require
from experiments.suggest import did_you_mean

TENSORBOARD = "tensorboard"
LOGS = {"wandb": "wandb", "mlflow": "mlflow", TENSORBOARD: "tensorboardX"}
"""Packages of what `--log` names; the extras have the same names as the logs."""


def parse_logs(text: str | None, *, tensorboard: bool) -> tuple[str, ...]:
    """Returns the names in `--log wandb,mlflow`, each once.

    Args:
        text: the option; None for none.
        tensorboard: whether `--tensorboard` is given, which is short for `--log tensorboard`.

    Raises:
        UserError: a name is unknown, or its package is not installed.
    """
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in LOGS:
            raise UserError(
                f"--log is {text!r}, but should name {', '.join(LOGS)}, separated by commas."
                f"{did_you_mean(name, LOGS)}"
            )
        require(LOGS[name], name, needed_by=f"--log {name}")
    if tensorboard and TENSORBOARD not in names:
        require(LOGS[TENSORBOARD], TENSORBOARD, needed_by="--tensorboard")
        names.append(TENSORBOARD)
    return tuple(dict.fromkeys(names))
