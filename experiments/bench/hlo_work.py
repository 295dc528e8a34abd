"""The work of a compiled program, counted in its text with the trip counts of its loops.

``compiled.cost_analysis()`` counts the body of a loop once.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# Operations that write nothing: names for arrays, and calls, whose bodies are counted.
WRITES_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"}

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w-]+)\(")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")
_BITS = re.compile(r"\d+$")


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one run of a program.

    Attributes:
        flops: of matmuls.
        bytes_written: by all operations; of an update in place, the bytes that it updates.
        collectives: how many there are, each run of a loop's body counted.
        collectives_in_loops: those of them that are in a loop.
    """

    flops: int
    bytes_written: int
    collectives: int
    collectives_in_loops: int


@dataclasses.dataclass
class _Computation:
    lines: list[str] = dataclasses.field(default_factory=list)
    types: dict[str, str] = dataclasses.field(default_factory=dict)


def work_of(hlo: str) -> Work:
    """The work of a program, from ``compiled.as_text()``.

    Raises:
        ValueError: a loop's number of iterations is not known.
    """
    computations, entry = _parse(hlo)
    total: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int, *, is_in_loop: bool, is_fused: bool) -> None:
        computation = computations[name]
        for line in computation.lines:
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            op = match["op"]
            if op == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                if trips is None:
                    raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
                body = _called(line, "body")
                visit(body, times * int(trips[1]), is_in_loop=True, is_fused=False)
            elif op == "call":
                called = _called(line, "to_apply")
                visit(called, times, is_in_loop=is_in_loop, is_fused=is_fused)
            elif op == "fusion":
                visit(_called(line, "calls"), times, is_in_loop=is_in_loop, is_fused=True)
            elif op == "dot":
                total["flops"] += times * _dot_flops(line, computation.types)
            elif op.removesuffix("-start") in COLLECTIVES:
                total["collectives"] += times
                total["in loops"] += times * is_in_loop
            if not is_fused and op not in WRITES_NOTHING:
                total["bytes"] += times * _bytes_written(line, computation, computations)

    visit(entry, 1, is_in_loop=False, is_fused=False)
    return Work(total["flops"], total["bytes"], total["collectives"], total["in loops"])


def _parse(hlo: str) -> tuple[dict[str, _Computation], str]:
    """The computations by name, and the name of the entry."""
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "->" in line:
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ", 1)[0]
            entry = name if line.startswith("ENTRY") else entry
            current = computations[name] = _Computation()
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.lines.append(line)
            current.types[match["name"]] = match["type"]
    return computations, entry


def _called(line: str, attribute: str) -> str:
    match = re.search(rf"\b{attribute}=%?([\w.-]+)", line)
    if match is None:
        raise ValueError(f"{attribute} is missing: {line.strip()[:200]}")
    return match[1]


def _operands(line: str) -> list[str]:
    match = _INSTRUCTION.match(line)
    assert match is not None, "called for instructions alone"
    arguments = line[match.end() :].split(")", 1)[0]
    return [each.strip().split(" ")[-1].lstrip("%") for each in arguments.split(",")]


def _dot_flops(line: str, types: Mapping[str, str]) -> int:
    match = _INSTRUCTION.match(line)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
    assert match is not None
    assert contracted is not None
    sizes = _shape(types[_operands(line)[0]])
    axes = [int(axis) for axis in contracted[1].split(",") if axis]
    return 2 * math.prod(_shape(match["type"])) * math.prod(sizes[axis] for axis in axes)


def _shape(kind: str) -> list[int]:
    match = _ARRAY.search(kind)
    assert match is not None, "an array's type"
    return [int(size) for size in match[2].split(",") if size]


def _bytes_written(
    line: str, computation: _Computation, computations: Mapping[str, _Computation]
) -> int:
    match = _INSTRUCTION.match(line)
    assert match is not None, "called for instructions alone"
    if match["op"] == "fusion":
        fused = computations[_called(line, "calls")]
        root = fused.lines[-1]
        if " dynamic-update-slice(" in root:
            return _bytes_written(root, fused, computations)
    if match["op"] == "dynamic-update-slice":
        return _num_bytes(computation.types[_operands(line)[1]])
    return _num_bytes(match["type"])


def _num_bytes(kind: str) -> int:
    total = 0
    for dtype, sizes in _ARRAY.findall(kind):
        bits = _BITS.search(dtype)
        bytes_each = max(1, int(bits[0]) // 8) if bits else 1
        total += bytes_each * math.prod(int(size) for size in sizes.split(",") if size)
    return total
