"""Selection of an implementation."""

from types import ModuleType

from gru_jax import _checks
from gru_jax._unroll import reference
from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused import mosaic_gpu, tpu
from gru_jax._unroll.log import log_once
from gru_jax._unroll.xla import run as xla

IMPLEMENTATIONS: dict[str, ModuleType] = {
    "mosaic_gpu": mosaic_gpu,
    "pallas_tpu": tpu,
    "xla": xla,
    "scan": reference,
}
"""Implementations by name, the fastest first: modules with ``unsupported_reasons`` and ``run``."""


def select_implementation(requested: str | None, spec: CallSpec) -> str:
    """The name of the implementation that runs a call; an error if it cannot run by request."""
    if requested is not None:
        _checks.one_of("implementation", requested, IMPLEMENTATIONS)
        reasons = IMPLEMENTATIONS[requested].unsupported_reasons(spec)
        if reasons:
            reason = "; ".join(reasons)
            raise NotImplementedError(
                f'implementation="{requested}" is not supported here: {reason}'
            )
        return requested
    passed_over = {}
    for name, implementation in IMPLEMENTATIONS.items():
        reasons = implementation.unsupported_reasons(spec)
        if not reasons:
            _log_slow_path(name, passed_over, spec)
            return name
        passed_over[name] = reasons
    raise AssertionError('"scan" supports every call')


def _log_slow_path(chosen: str, passed_over: dict[str, list[str]], spec: CallSpec) -> None:
    """Tells of faster implementations for the platform, and why they are not taken."""
    for name, reasons in passed_over.items():
        targets = getattr(IMPLEMENTATIONS[name], "targets", None)
        if targets is None or targets(spec):
            log_once(
                f'unroll runs by implementation="{chosen}" and not by the faster "{name}": '
                f"{'; '.join(reasons)}. gru_jax.explain tells more about a call."
            )
