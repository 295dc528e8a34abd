"""Adds the tests that take long to tests/slow_tests.txt, which `make test` leaves out.

Of the cases of a test function the fastest stays, so that this takes no law out of `make test`.

On an otherwise idle machine:

    .venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" --durations=0 > durations.txt
    python scripts/list_slow_tests.py durations.txt
"""

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

LIST = Path(__file__).parents[1] / "tests" / "slow_tests.txt"
SECONDS = 0.2
"""From which on a case of a test function, with its fixtures, takes long."""


def slow_tests(durations: str) -> set[str]:
    """Returns the ids of the tests that take long, from what pytest prints with --durations=0."""
    seconds: Counter[str] = Counter()
    for took, test in re.findall(r"^([\d.]+)s (?:call|setup|teardown) +(\S.*)$", durations, re.M):
        seconds[test.strip()] += float(took)
    cases = defaultdict(list)
    for test in seconds:
        cases[test.partition("[")[0]].append(test)
    fastest = {min(tests, key=lambda test: seconds[test]) for tests in cases.values()}
    return {test for test, took in seconds.items() if took >= SECONDS} - fastest


if __name__ == "__main__":
    known = set(LIST.read_text().splitlines()) if LIST.exists() else set()
    found = slow_tests(Path(sys.argv[1]).read_text())
    LIST.write_text("".join(f"{test}\n" for test in sorted(known | found)))
