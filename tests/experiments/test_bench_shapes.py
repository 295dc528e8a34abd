"""Problem sizes are written and read as "B,T,D,H"."""

import pytest

from experiments.bench.command_line import parse_size
from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError


def test_parse_inverts_str():
    size = ProblemSize(batch=32, time=256, input=64, hidden=128)
    assert str(size) == "32,256,64,128"
    assert ProblemSize.parse("32,256,64,128") == size


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,0", "1,2,3,-4", "a,2,3,4", "1,2,3,4.0"]
)
def test_anything_else_is_an_error_that_shows_what_is_expected(text):
    with pytest.raises(ValueError, match="expected batch,time,input,hidden"):
        ProblemSize.parse(text)
    with pytest.raises(UserError, match=r"--long: .* is not a problem size"):
        parse_size("long", text)
