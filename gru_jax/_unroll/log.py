"""What users are told of slow paths: one line at INFO for each reason, once in a process."""

import logging

logger = logging.getLogger("gru_jax")
_logged: set[str] = set()


def log_once(message: str) -> None:
    """Logs a message unless it has been logged before."""
    if message not in _logged:
        _logged.add(message)
        logger.info(message)
