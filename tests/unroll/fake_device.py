"""A fake default device, for decisions that depend on the device while a program is traced."""

import contextlib
import types

import pytest

from gru_jax._unroll import call_spec
from gru_jax._unroll.fused import run as fused


@contextlib.contextmanager
def fake_default_device(platform, kind, count=1, is_verified=True, **attributes):
    """Tracing assumes that programs run on ``count`` devices of this platform and kind.

    Args:
        platform, kind, count: of the devices.
        is_verified: whether the kernels for such devices count as verified on one; otherwise the
            library's own record decides.
        **attributes: more of the devices', as ``compute_capability="9.0"``.
    """
    device = types.SimpleNamespace(platform=platform, device_kind=kind, **attributes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_spec, "default_device", lambda: device)
        patch.setattr(call_spec, "count_devices", lambda device: count)
        if is_verified:
            patch.setattr(fused, "VERIFIED_PLATFORMS", (platform,))
        yield
