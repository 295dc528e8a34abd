"""YAML of bounded cost, with the scalars of YAML 1.2's core schema (section 10.3.2)."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

LARGEST = 10**6
MAX_DEPTH = 32
MAX_ALIASES = 1000
MAX_VALUES = 100_000
LONGEST_NUMBER = 400
TAG = "tag:yaml.org,2002:"
# The C parser, if PyYAML was built with it, is about ten times as fast.
PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# In the order in which a plain scalar is matched; what matches none is a string.
SCALARS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


def parse(text: str) -> Any:
    """Returns the value of a document; None if it is empty.

    Values are nested at most 32 deep. Aliases are expanded at most 1,000 times, those within what
    an alias stands for included, and to at most 100,000 values.

    Raises:
        ValueError: the text is no such document; the message says where and why.
    """
    try:
        builder = _Builder(yaml.parse(text, Loader=PARSER))
        return builder.document()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def dump(value: Any) -> str:
    """Returns a value as YAML that :func:`parse` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Builder:
    """Makes values of a parser's events, which have no depth, and counts what they cost."""

    def __init__(self, events: Iterator[Any]):
        self._events = events
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        self._values = 0
        self._aliases = 0

    def document(self) -> Any:
        """Reads the only document."""
        next(self._events)  # StreamStart
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 1)
        next(self._events)  # DocumentEnd
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            raise _error(end, "there is a second document")
        return value

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _error(event, f"values are nested deeper than {MAX_DEPTH}")
        before = self._values, self._aliases
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _error(event, f"the alias {event.anchor} has no anchor before it")
            value, values, aliases = self._anchors[event.anchor]
            self._count(event, values, 1 + aliases)
            return value
        self._count(event, 1, 0)
        if isinstance(event, yaml.SequenceStartEvent):
            _check_tag(event, "seq")
            value = [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        elif isinstance(event, yaml.MappingStartEvent):
            _check_tag(event, "map")
            value = {}
            for item in self._until(yaml.MappingEndEvent):
                key = self._value(item, depth + 1)
                if isinstance(key, dict | list):
                    raise _error(item, "a key is a mapping or a list")
                if key in value:
                    raise _error(item, f"duplicate key {key}")
                value[key] = self._value(next(self._events), depth + 1)
        else:
            value = _scalar(event)
        if event.anchor is not None:
            costs = self._values - before[0], self._aliases - before[1]
            self._anchors[event.anchor] = value, *costs
        return value

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _count(self, event: Any, values: int, aliases: int) -> None:
        self._values += values
        self._aliases += aliases
        if self._aliases > MAX_ALIASES:
            raise _error(event, f"aliases are expanded more than {MAX_ALIASES:,} times")
        if self._values > MAX_VALUES:
            raise _error(event, f"it holds more than {MAX_VALUES:,} values")


def _scalar(event: Any) -> Any:
    text = event.value
    is_plain, _ = event.implicit
    if event.tag is None or event.tag == "!":
        kinds = SCALARS if is_plain and event.tag is None else {}
        kind = next((name for name in kinds if SCALARS[name].fullmatch(text)), "str")
    else:
        kind = event.tag.removeprefix(TAG)
        if kind not in (*SCALARS, "str"):
            raise _error(event, f"the tag {event.tag} is not supported")
        if kind != "str" and not SCALARS[kind].fullmatch(text):
            raise _error(event, f"{text[:80]!r} is not a value of !!{kind}")
    if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
        raise _error(event, f"a number has {len(text):,} characters")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def _check_tag(event: Any, kind: str) -> None:
    if event.tag not in (None, "!", TAG + kind):
        raise _error(event, f"the tag {event.tag} is not supported")


def _error(event: Any, reason: str) -> ValueError:
    mark = event.start_mark
    return ValueError(f"{reason[:300]}, line {mark.line + 1}, column {mark.column + 1}")


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.2 reads as something else, in addition to those of YAML 1.1."""


for _kind, _pattern in SCALARS.items():
    _Dumper.add_implicit_resolver(TAG + _kind, re.compile(f"(?:{_pattern.pattern})$"), None)
