"""How many kernels a compiled program launches on a GPU."""

import re

NO_LAUNCH = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "tuple",
}


def launches(program: str) -> int:
    """Counts what an optimized HLO module runs, loops as often as they are known to go round."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        if begin := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = computations.setdefault(begin[2], [])
            entry = begin[2] if begin[1] else entry
        elif " = " in line:
            lines.append(line)

    def of(computation: str) -> int:
        return sum(map(of_instruction, computations[computation]))

    def of_instruction(line: str) -> int:
        operator = re.search(r"[})\]] ([a-z][a-z-]*)\(", line)
        assert operator is not None, line
        called = re.search(r"(?:body|to_apply|calls)=%?([\w.-]+)", line)
        match operator[1]:
            case "while":
                rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                assert called is not None, line
                assert rounds is not None, line
                return int(rounds[1]) * of(called[1])
            case "call" | "async-start":
                assert called is not None, line
                return of(called[1])
            case name:
                # The end of an asynchronous operation launches nothing: it waits.
                return name not in NO_LAUNCH and not name.endswith("-done")

    return of(entry)
