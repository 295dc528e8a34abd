"""A device that is not there, for what is decided by the device while a program is traced."""

import contextlib
import types

import pytest

from gru_jax._unroll import call_spec as call
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused import tpu as pallas_tpu


@contextlib.contextmanager
def likely(platform, kind, count=1, has_run=True):
    """Tracing takes it that programs run on ``count`` devices of this platform and kind.

    Args:
        platform, kind, count: of the devices.
        has_run: whether it is taken that the kernels for such devices have run on one; otherwise
            that is what the library knows of it.
    """
    device = types.SimpleNamespace(platform=platform, device_kind=kind)
    with pytest.MonkeyPatch.context() as patch:
        for module in (call, pallas_tpu):
            patch.setattr(module, "default_device", lambda: device)
        patch.setattr(call, "count_devices", lambda device: count)
        if has_run:
            patch.setattr(fused, "VERIFIED_PLATFORMS", (platform,))
        yield
