"""quote: a value of a client's JSON, for messages that people read."""

from enum import Enum

from engine.wording.counted import counted

_MAX_QUOTED = 60  # characters of a client's value in a message


def quote(value: object) -> str:
    """A value as JSON spells it, shortened."""
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
