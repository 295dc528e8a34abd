"""Suggestions for misspelt words."""

import difflib
from collections.abc import Iterable

# The comparison takes time quadratic in the length.
LONGEST_WORD = 200


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean X?" with the closest known word, or an empty string."""
    if len(word) > LONGEST_WORD:
        return ""
    closest = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {closest[0]}?" if closest else ""
