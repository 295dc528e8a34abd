"""The least time that a device's arithmetic and memory allow, whatever the program."""

from typing import NamedTuple

from experiments.bench.shapes import ProblemSize


class Device(NamedTuple):
    """What a data sheet says: 10^12 operations a second, by precision, and bytes a second."""

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
"""NVIDIA's data sheets of the H100 (SXM, PCIe) and H200, dense; the first name that fits counts."""

BYTES = {"bfloat16": 2, "float16": 2, "float32 (TF32)": 4, "float32": 4}


def floor_ms(
    size: ProblemSize, precision: str, device_kind: str, *, gradient: bool
) -> float | None:
    """Milliseconds below which no device of this kind gets; None for one that is not known.

    All products at the full rate, or every input and output moved once, whichever takes longer.
    That steps come one after the other is not in it, which is what bounds a small batch.

    Args:
        size: the sizes.
        precision: of the products, a key of :data:`BYTES`.
        device_kind: as JAX names it.
        gradient: whether parameters and inputs are differentiated, after a forward pass.
    """
    device = next((device for name, device in DEVICES.items() if name in device_kind), None)
    if device is None:
        return None
    batch, time, inputs, hidden = size.batch, size.time, size.input, size.hidden
    passes = 3 if gradient else 1
    operations = passes * 2 * time * batch * 3 * hidden * (inputs + hidden)
    numbers = time * batch * (inputs + hidden) + 3 * hidden * (inputs + hidden)
    moved = (2 if gradient else 1) * numbers * BYTES[precision]
    seconds = max(
        operations / (device.teraflops[precision] * 1e12), moved / device.bytes_per_second
    )
    return seconds * 1e3
