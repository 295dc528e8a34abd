"""Roofline: a lower bound of the time, from a device's arithmetic and memory."""

from typing import NamedTuple

from experiments.bench.shapes import ProblemSize


class Device(NamedTuple):
    """Peak rates of a data sheet: TFLOP/s by precision, and bytes per second."""

    teraflops: dict[str, float]
    bytes_per_second: float


HOPPER = {"bfloat16": 989.4, "float16": 989.4, "float32 (TF32)": 494.7, "float32": 66.9}

DEVICES = {
    "H100 PCIe": Device(
        {"bfloat16": 756.0, "float16": 756.0, "float32 (TF32)": 378.0, "float32": 51.2}, 2.0e12
    ),
    "H100": Device(HOPPER, 3.35e12),
    "H200": Device(HOPPER, 4.8e12),
}
"""NVIDIA's data sheets of the H100 (SXM, PCIe) and H200, dense; the first matching name counts."""

BYTES = {"bfloat16": 2, "float16": 2, "float32 (TF32)": 4, "float32": 4}


def floor_ms(
    size: ProblemSize, precision: str, device_kind: str, *, gradient: bool
) -> float | None:
    """A lower bound in milliseconds; None if the device is unknown.

    The larger of two times: all matmuls at the peak rate, and every input and output moved once.
    The bound ignores that steps are sequential, which limits small batches.

    Args:
        size: the problem size.
        precision: of the matmuls, a key of :data:`BYTES`.
        device_kind: JAX's name of the device.
        gradient: whether the gradient with respect to parameters and inputs is included.
    """
    device = next((device for name, device in DEVICES.items() if name in device_kind), None)
    if device is None:
        return None
    batch, time, inputs, hidden = size.batch, size.time, size.input, size.hidden
    passes = 3 if gradient else 1
    flops = passes * 2 * time * batch * 3 * hidden * (inputs + hidden)
    elements = time * batch * (inputs + hidden) + 3 * hidden * (inputs + hidden)
    moved = (2 if gradient else 1) * elements * BYTES[precision]
    seconds = max(flops / (device.teraflops[precision] * 1e12), moved / device.bytes_per_second)
    return seconds * 1e3
