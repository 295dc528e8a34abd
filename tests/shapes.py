"""The sizes which every implementation is tested at."""

from typing import NamedTuple


class ProblemSize(NamedTuple):
    """Inputs are (time, *batch, input), states (*batch, hidden)."""

    time: int
    batch: tuple[int, ...]
    input: int
    hidden: int

    def __str__(self) -> str:
        return f"T{self.time}-B{'x'.join(map(str, self.batch)) or '0'}-D{self.input}-H{self.hidden}"


SHAPES = (
    ProblemSize(5, (), 3, 4),
    ProblemSize(4, (3,), 2, 5),
    ProblemSize(3, (2, 3), 4, 2),
    ProblemSize(2, (2, 1, 2), 2, 3),
    ProblemSize(1, (2,), 3, 2),
    ProblemSize(6, (2,), 1, 3),
    ProblemSize(5, (2,), 3, 1),
    ProblemSize(1, (), 1, 1),
)
"""Ranks 0 to 3 of the batch, and one step, one input and one unit alone and together."""
