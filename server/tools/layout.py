"""CallLayout: the text that a chat template writes around the names and arguments of calls."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from server.tools.format import WrittenCall

# MiniMax's mark, a tag, a bracketed word, a bracket or separator, or anything else between spaces
_WORD = re.compile(r"\]<\][a-z]+\[>\[|<[^<>\s]*>|\[[A-Z_]+\]|[\[\]{}(),;]|<?[^\s<>\[\]{}(),;]+>?|[<>]")
_MARK = re.compile(r"\]<\][a-z]+\[>\[|<[^<>\s]*>|\[[A-Z_]+\]")


class CallField(Enum):
    """A variable part of a call's text."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    INDEX = auto()  # the call's number


@dataclass(frozen=True, slots=True)
class CallLayout:
    """The text around tool calls. Answers are: text, after_text, begin, open, body, separator, open, body, ..., end."""

    begin: str
    open: str
    body: tuple[str | CallField, ...]
    separator: str = ""
    end: str = ""
    lead: str = ""  # before begin, if no text precedes
    after_text: str | None = ""  # None: the template drops the text of an answer with calls
    takes_several: bool = True
    id_pattern: str = "[a-zA-Z0-9]{9}"
    id_format: str | None = None  # if the template builds the id from {name} and {index}
    item_separator: str = ", "  # within the arguments' JSON
    key_separator: str = ": "
    first_index: int = 0
    answer_ends: tuple[str, ...] = ()  # texts that may end any answer

    @property
    def opening(self) -> str:
        """The text from the start of the calls to the body of the first one."""
        return self.begin + self.open

    @property
    def trigger(self) -> str | None:
        """The mark that starts calls in an answer with text; None if an answer with calls has no other text."""
        first = next(iter(layout_words(self.opening)), "")
        return first if len(first) > 1 else None

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts in the layout that look like special tokens."""
        body = (part for part in self.body if isinstance(part, str))
        texts = (self.begin, self.open, *body, self.separator, self.end)
        return tuple(dict.fromkeys(mark for text in texts for mark in _MARK.findall(text)))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Return the text of the calls, as the template writes an answer of only these calls."""
        written = [self.open + self.write_body(call, index) for index, call in enumerate(calls)]
        return self.lead + self.begin + self.separator.join(written) + self.end

    def write_body(self, call: WrittenCall, index: int) -> str:
        values = {
            CallField.NAME: call.name,
            CallField.ARGUMENTS: call.arguments,
            CallField.ID: call.id,
            CallField.INDEX: str(self.first_index + index),
        }
        return "".join(part if isinstance(part, str) else values[part] for part in self.body)


@dataclass(frozen=True, slots=True)
class ObjectKeys:
    """The keys of a tool call that is written as a JSON object, and the text around the object."""

    before: str  # end of the layout's open, up to the object
    after: str  # end of the layout's body, after the object
    name: str
    arguments: str
    id: str | None
    parent: str | None  # key of the inner object that holds name and arguments


def layout_words(text: str) -> tuple[str, ...]:
    """Split a layout's text into words, between which a model may write more or less space than the template."""
    return tuple(_WORD.findall(text))


def object_keys(layout: CallLayout) -> ObjectKeys | None:
    """Return the JSON keys under which a call has its function's name and its arguments; None unless each call of the
    layout is a JSON object that contains the name."""
    text = layout.open + layout.write_body(WrittenCall("NAME", '{"ARGUMENTS": 0}', "ID"), 0)
    start = layout.open.find("{")
    if start < 0:
        return None
    try:
        call, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    parent = next((key for key, value in call.items() if isinstance(value, dict) and "NAME" in value.values()), None)
    inner = call if parent is None else call[parent]
    keys = {str(value): key for key, value in inner.items()}
    if "NAME" not in keys or "{'ARGUMENTS': 0}" not in keys:
        return None
    ids = {str(value): key for key, value in call.items()}
    call_id = ids.get("0" if CallField.INDEX in layout.body else "ID")
    return ObjectKeys(text[:start], text[end:], keys["NAME"], keys["{'ARGUMENTS': 0}"], call_id, parent)
