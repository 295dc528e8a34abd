"""Sizes of the problems that are timed."""

import dataclasses
from typing import Self


@dataclasses.dataclass(frozen=True)
class ProblemSize:
    """B sequences of T steps, D input features and H hidden units.

    Attributes:
        batch: B.
        time: T.
        input: D.
        hidden: H.
    """

    batch: int
    time: int
    input: int
    hidden: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses "B,T,D,H".

        Raises:
            ValueError: if the text is anything but four positive integers.
        """
        parts = text.split(",")
        if len(parts) != 4 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(
                f"{text!r} is not a problem size; "
                "expected batch,time,input,hidden, as in 32,256,64,128"
            )
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.batch},{self.time},{self.input},{self.hidden}"


CPU_SIZES = ("1,512,64,64", "32,256,64,128", "64,128,128,256", "16,512,256,512", "128,64,32,32")
"""The sizes of the report on CPUs."""
