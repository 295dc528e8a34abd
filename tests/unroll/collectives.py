"""Collectives in a compiled program."""

import collections
import re

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def collectives(hlo: str) -> collections.Counter:
    """How many of each kind a program has, by (kind, whether it is in a loop).

    ``hlo`` is the text of a compiled program. All computations but the entry count as loops: calls
    are inlined by then.
    """
    found: collections.Counter = collections.Counter()
    in_entry = False
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            in_entry = line.startswith("ENTRY")
        if match := re.search(rf"[\])}}] ({KINDS})(-start)?\(", line):
            found[match.group(1), not in_entry] += 1
    return found
