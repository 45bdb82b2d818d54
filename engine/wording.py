"""Words for messages that people read: numbers with their nouns, and quoted values of a client."""

from enum import Enum

_MAX_QUOTED = 60  # characters of a client's value in a message


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: '1 file' or '2,000 files'. plural: the noun's plural, if it is not noun + 's'."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def gib(num_bytes: float) -> str:
    """Return a number of bytes as '1.25 GiB'."""
    return f"{num_bytes / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that it has at least two of: '90 s' or '2.5 h'."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def quote(value: object) -> str:
    """Return a client's value as an error message quotes it: shortened, with lists and objects only described."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"a list of {counted(len(value), 'item')}"
        case dict():
            return "an object"
    text = repr(value.value if isinstance(value, Enum) else value)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
