"""Measures revisions in interleaved rounds: running, tracing and compiling."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from experiments.bench.revisions.process import RevisionProcess
from experiments.bench.shapes import CPU_SIZES, ProblemSize
from experiments.bench.timing import Summary, shuffled_rounds, summarize

KINDS = ("forward", "gradient")
METRICS = tuple(f"{metric} {kind}" for metric in ("run", "trace", "compile") for kind in KINDS)
FEATURE_SIZE = ProblemSize.parse("32,256,64,128")
CASES = (
    *(("GRU", ProblemSize.parse(size)) for size in CPU_SIZES),
    *(
        (name, FEATURE_SIZE)
        for name in ("GRU, starts", "GRU, lengths", "LSTM", "bidirectional stack")
    ),
)
"""Names of cases, as `worker.make_case` has them, and their sizes."""

BURST_MS = 20.0
MIN_RUN_ROUNDS, MIN_COMPILE_ROUNDS = 5, 3

Processes = Mapping[str, RevisionProcess]
Rounds = dict[str, list[dict[str, float]]]
"""By metric, the milliseconds of each role in each round."""


def measure(
    folders: Mapping[str, Path], cases: list[tuple[str, ProblemSize]], deadline: float
) -> Iterator[tuple[str, Rounds]]:
    """Measures one case after the other until the deadline, with an equal share of the time each.

    Args:
        folders: checkouts by role: "old", "new", and "control", the old one once more. Each role
            has a process.
        cases: names and sizes.
        deadline: the `time.monotonic()` at which measuring stops.

    Yields:
        The title and the rounds of each case that was completed.
    """
    with contextlib.ExitStack() as stack:
        processes = {
            role: stack.enter_context(RevisionProcess(folder, deadline))
            for role, folder in folders.items()
        }
        with contextlib.suppress(TimeoutError):
            for process in processes.values():
                process.check()
            for index, (name, size) in enumerate(cases):
                until = case_deadline(deadline, len(cases) - index)
                yield f"{name} {size}", _measure_case(processes, name, size, until)


def case_deadline(deadline: float, cases: int) -> float:
    """After when the next case begins no round, if the remaining ones share the time equally.

    A tenth is left for the round that has begun by then: what the last case has not finished at the
    deadline is lost.
    """
    return time.monotonic() + 0.9 * (deadline - time.monotonic()) / cases


def _measure_case(processes: Processes, name: str, size: ProblemSize, deadline: float) -> Rounds:
    for process in processes.values():
        process.ask("prepare", name, [size.batch, size.time, size.input, size.hidden])
    found: Rounds = {metric: [] for metric in METRICS}
    begin = time.monotonic()
    # The first compilation in a process is slower than later ones and does not count.
    for process in processes.values():
        for kind in KINDS:
            process.ask("compile", kind)
    half = (deadline - begin) / 2
    for order in shuffled_rounds(list(processes), begin + half, MIN_COMPILE_ROUNDS):
        for kind in KINDS:
            times = {role: processes[role].ask("compile", kind) for role in order}
            for metric in ("trace", "compile"):
                found[f"{metric} {kind}"].append({role: times[role][metric] for role in order})
    for kind, until in zip(KINDS, (deadline - half / 2, deadline), strict=True):
        slowest = max(process.ask("run", kind, 1) for process in processes.values())
        calls = max(1, round(BURST_MS / slowest))
        for order in shuffled_rounds(list(processes), until, MIN_RUN_ROUNDS):
            found[f"run {kind}"].append(
                {role: processes[role].ask("run", kind, calls) for role in order}
            )
    return found


def summarize_rounds(rounds: list[dict[str, float]]) -> dict[str, Summary]:
    """The milliseconds of each role, and the rounds' ratios "new / old" and "control / old"."""

    def of(value: Callable[[dict[str, float]], float]) -> Summary:
        return summarize([value(each) for each in rounds])

    return {
        **{role: of(lambda each, role=role: each[role]) for role in ("old", "new", "control")},
        "new / old": of(lambda each: each["new"] / each["old"]),
        "control / old": of(lambda each: each["control"] / each["old"]),
    }
