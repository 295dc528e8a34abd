"""Sizes of the network and of its training for the size of the data."""

from typing import Any

# Examples up to which a size is used: hidden units, dropout, steps, and sequences of a batch.
SIZES = (
    (300, 24, 0.2, 600, 16),
    (3_000, 32, 0.2, 1000, 32),
    (10**9, 64, 0.1, 2400, 64),
)
EVALUATIONS = 20
# Evaluations without improvement, after which the training ends.
PATIENCE = 6


def training_settings(examples: int) -> dict[str, Any]:
    """Returns keys of a config by dotted name, for a number of training examples."""
    _, hidden_size, dropout, steps, batch_size = next(size for size in SIZES if examples <= size[0])
    return {
        "model.hidden_size": hidden_size,
        "model.dropout": dropout,
        "optimizer.learning_rate": 0.003,
        "optimizer.schedule": "cosine",
        "optimizer.final_scale": 0.05,
        "optimizer.max_grad_norm": 1.0,
        "training.steps": steps,
        "training.batch_size": min(batch_size, max(1, examples)),
        "training.eval_every": steps // EVALUATIONS,
        "training.patience": PATIENCE,
    }


def token_settings(tokens: int) -> dict[str, Any]:
    """Returns settings of a config for a text of so many tokens."""
    window, batch_size = 64, 16
    while batch_size > 1 and tokens // 2 < 4 * window * batch_size:
        batch_size //= 2
    return {
        **training_settings(tokens // 10),
        "model.hidden_size": 128,
        "model.dropout": 0.0 if tokens > 10**6 else 0.2,
        "window": window if tokens > 4 * window else max(1, tokens // 8),
        "training.batch_size": batch_size,
    }
