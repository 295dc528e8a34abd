"""Tables of docs/kernels.md: what the fused kernels for NVIDIA GPUs support.

`python -m tests.docs.support_matrix` writes them. The answers are those of the code that decides,
for devices of these names.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from gru_jax._autodiff.step_graph import node_types
from gru_jax._unroll.call_spec import CallOptions, CallSpec, make_call_spec
from gru_jax._unroll.fused import mosaic_gpu, one_block
from tests.docs.pages import ROOT
from tests.unroll.fake_device import fake_default_device

PAGE = ROOT / "docs" / "kernels.md"

H100 = "NVIDIA H100 80GB HBM3"
GPUS = {
    "H100, H200, H800, H20, GH200": (H100, "9.0"),
    "A100, A30, A10, L4, L40S, RTX 30 and 40": ("NVIDIA A100-SXM4-80GB", "8.0"),
    "B200, RTX 50": ("NVIDIA B200", "10.0"),
    "T4, V100": ("Tesla T4", "7.5"),
}
"""Names and compute capabilities of devices that are treated alike."""

INPUTS = {
    "float32": ("float32", None),
    'float32, `"highest"`': ("float32", "highest"),
    'float32, `"bfloat16"`': ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
}
"""Dtype of the inputs, and ``jax.default_matmul_precision``."""

SIZES = sorted({size + off for size in range(64, 641, 64) for off in (-1, 0, 1)} | {1})
T, B, D = 6, 4, 3
KEY = jax.random.key(0)


def tables() -> dict[str, str]:
    """The tables in Markdown by name."""
    with pytest.MonkeyPatch.context() as patch:
        # The page says which jax the one-block kernels need.
        patch.setattr(one_block, "MIN_JAX", (0, 0))
        return {"devices": _devices(), "calls": _calls()}


def write(text: str, found: dict[str, str]) -> str:
    """The page with these tables between their marks."""
    for name, table in found.items():
        marks = rf"(<!-- {name}: .*? -->\n).*?(\n<!-- end of {name} -->)"
        text, count = re.subn(marks, rf"\g<1>\n{table}\n\g<2>", text, flags=re.DOTALL)
        assert count == 1, name
    return text


def _devices() -> str:
    """A row for each kind of GPU and inputs, a column for hidden sizes that are treated alike."""
    columns: dict[tuple[str, ...], list[int]] = {}
    for size in SIZES:
        params = jax.eval_shape(functools.partial(gru_jax.init, KEY, D, size))
        column = tuple(_kernels(params, gpu, inputs) for gpu in GPUS for inputs in INPUTS)
        columns.setdefault(column, []).append(size)
    rows = [[gpu, inputs] for gpu in GPUS for inputs in INPUTS]
    # The sizes that go on to the last come last.
    columns = dict(sorted(columns.items(), key=lambda item: (_is_open(item[1]), item[1][0])))
    for column in columns:
        for row, cell in zip(rows, column, strict=True):
            row.append(cell)
    return _markdown([["GPU", "inputs", *map(_label, columns.values())], *rows])


def _kernels(params: Any, gpu: str, inputs: str) -> str:
    """Which kernels run a call: bold if by default, otherwise only when requested."""
    kind, capability = GPUS[gpu]
    dtype, precision = INPUTS[inputs]
    xs = jax.ShapeDtypeStruct((T, B, D), dtype)

    def spec(requested: Any) -> CallSpec:
        return make_call_spec(
            params, xs, None, CallOptions(node_types(params), requested=requested)
        )

    with (
        jax.default_matmul_precision(precision),
        fake_default_device("gpu", kind, is_verified=False, compute_capability=capability),
    ):
        if not mosaic_gpu.unsupported_reasons(spec(None)):
            return f"**{mosaic_gpu.kernels_for(spec(None)).NAME}**"
        if not mosaic_gpu.unsupported_reasons(spec("mosaic_gpu")):
            return mosaic_gpu.kernels_for(spec("mosaic_gpu")).NAME
    return "xla"


def _is_open(sizes: list[int]) -> bool:
    return sizes[-1] == SIZES[-1]


def _label(sizes: list[int]) -> str:
    """Sizes in words: those that go on to the last are "others"."""
    if _is_open(sizes):
        return "others"
    runs: list[list[int]] = []
    for size in sizes:
        follows = runs and SIZES.index(runs[-1][-1]) + 1 == SIZES.index(size)
        runs[-1].append(size) if follows else runs.append([size])
    return ", ".join(f"{run[0]} to {run[-1]}" if run[1:] else str(run[0]) for run in runs)


def _calls() -> str:
    """A row for each feature of a call, a column for the kernels."""
    flags, lengths = (jax.ShapeDtypeStruct((T, B), bool), jax.ShapeDtypeStruct((B,), jnp.int32))
    features: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
        "`lengths`": ({}, None, {"lengths": lengths}),
        "`mask`": ({}, None, {"mask": flags}),
        "`starts`": ({}, None, {"starts": flags}),
        "`reverse=True`": ({}, None, {"reverse": True}),
        "`h0` in float32": ({}, jnp.float32, {}),
        "`h0` in bfloat16": ({}, jnp.bfloat16, {}),
        "a learned `h0`": ({"learned_h0": True}, None, {}),
        "no biases": ({"bias": False}, None, {}),
        '`reset="before"`': ({"reset": "before"}, None, {}),
        "`checkpoint`": ({}, None, {"checkpoint": "chunk"}),
    }
    lines = [["a call with", "Hopper", "one-block"]]
    for name, (init, h0, options) in features.items():
        line = [name]
        for size, dtype in ((256, jnp.bfloat16), (100, jnp.float32)):
            params = jax.eval_shape(functools.partial(gru_jax.init, KEY, D, size, **init))
            xs = jax.ShapeDtypeStruct((T, B, D), dtype)
            state = None if h0 is None else jax.ShapeDtypeStruct((B, size), h0)
            with fake_default_device("gpu", H100, compute_capability="9.0"):
                line.append("yes" if _is_served(params, xs, state, options) else "no")
        lines.append(line)
    return _markdown(lines)


def _is_served(params: Any, xs: Any, h0: Any, options: Any) -> bool:
    try:
        gru_jax.explain(params, xs, h0, implementation="mosaic_gpu", **options)
    except NotImplementedError:
        return False
    return True


def _markdown(lines: list[list[str]]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rest))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    PAGE.write_text(write(PAGE.read_text(), tables()))
