"""CallReader: parses one tool call, after the text that opens it; and its implementations for calls with JSON."""

import re
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Protocol

from server.tools.layout import CallField, CallLayout, ObjectKeys, layout_words
from server.tools.reading.json_reader import Emit, read_arguments, read_string, read_value
from server.tools.reading.parser import CallEventLog
from server.tools.reading.text_reader import Steps, TextReader

_NAME = re.compile(r"[\w.-]+")
_ID = re.compile(r"[\w.:-]+")
_INDEX = re.compile(r"[0-9]+")
_ARGUMENT_KEYS = ("arguments", "parameters")


class CallOutcome(Enum):
    """Result of reading a call."""

    CALL = auto()
    TEXT = auto()  # whole, but with an unknown name: no event was emitted, and the consumed text is text
    BROKEN = auto()  # broke off before an event was emitted: the consumed text is text
    BROKEN_CALL = auto()  # broke off after its start was emitted; its end was emitted too


class CallReader(Protocol):
    """An incremental parser of single calls. Readers are immutable."""

    @property
    def opening(self) -> tuple[str, ...]:
        """Words that open a call, before the text that `read` consumes; the AnswerReader consumes them."""

    @property
    def closing(self) -> tuple[str, ...]:
        """Words that close a call, after the text that `read` consumes."""

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], index: int, /) -> Steps[CallOutcome]:
        """Read one call and log its events. index: the call's number in the answer, from 0."""


class ObjectCallReader:
    """A reader of calls that are JSON objects, with their keys in any order."""

    def __init__(self, keys: ObjectKeys) -> None:
        self.opening = layout_words(keys.before)
        self.closing = layout_words(keys.after)
        self._keys = keys

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], _index: int) -> Steps[CallOutcome]:
        call = _ObjectCall(self._keys, reader, log, names)
        if not (yield from call.read_object()):
            if call.is_started:
                log.end()
            return CallOutcome.BROKEN_CALL if call.is_started else CallOutcome.BROKEN
        if call.name is None or call.is_unknown:
            return CallOutcome.TEXT
        if not call.has_arguments:
            log.arguments("{}")
        log.end()
        return CallOutcome.CALL


class _ObjectCall:
    """State of one call that is being read."""

    def __init__(self, keys: ObjectKeys, reader: TextReader, log: CallEventLog, names: Collection[str]) -> None:
        self._keys = keys
        self._reader = reader
        self._log = log
        self._names = names
        self._id: str | None = None
        self._early: list[str] = []  # arguments that came before the name
        self.name: str | None = None
        self.has_arguments = False

    @property
    def is_unknown(self) -> bool:
        return self.name is not None and self.name not in self._names

    @property
    def is_started(self) -> bool:
        return self.name is not None and not self.is_unknown

    def read_object(self) -> Steps[bool]:
        """Consume the call's JSON object; return False if it is malformed or incomplete."""
        reader = self._reader
        num_open = 0
        is_first = True
        while True:
            yield from reader.skip_space()
            if is_first and (yield from reader.skip("{")):
                num_open += 1
                yield from reader.skip_space()
            if (yield from reader.skip("}")):
                num_open -= 1
                is_first = False
                if num_open == 0:
                    return True
                continue
            if num_open == 0 or (not is_first and not (yield from reader.skip(","))):
                return False
            yield from reader.skip_space()
            key = yield from read_string(reader)
            yield from reader.skip_space()
            if key is None or not (yield from reader.skip(":")):
                return False
            yield from reader.skip_space()
            # The members of an inner object are read like those of the call itself.
            is_first = key in (self._keys.parent, "function") and (yield from reader.sees("{"))
            if not is_first and not (yield from self._read_member(key)):
                return False

    def _read_member(self, key: str) -> Steps[bool]:
        reader = self._reader
        if key == self._keys.name and self.name is None:
            self.name = yield from read_string(reader)
            if self.is_started:
                reader.stop_recording()
                self._log.start(str(self.name), self._id)
                self._log.arguments("".join(self._early))
            return self.name is not None
        if not self.has_arguments and (key == self._keys.arguments or key in _ARGUMENT_KEYS):
            self.has_arguments = True
            if self.is_unknown:
                return (yield from read_value(reader, _ignore))
            return (yield from read_arguments(reader, self._log.arguments if self.is_started else self._early.append))
        if key == self._keys.id and (yield from reader.sees('"')):
            call_id = yield from read_string(reader)
            self._id = call_id if call_id and _ID.fullmatch(call_id) else None
            return call_id is not None
        return (yield from read_value(reader, _ignore))


class NamedCallReader:
    """A reader of calls whose name precedes their JSON arguments: name<mark>{...}."""

    def __init__(
        self, layout: CallLayout, read_arguments: Callable[[TextReader, Emit], Steps[bool]] = read_arguments
    ) -> None:
        """read_arguments: consumes the arguments, which begin with a brace, and emits them as JSON."""
        self._read_arguments = read_arguments
        position = layout.body.index(CallField.ARGUMENTS)
        self.opening = layout_words(layout.open)
        self.closing = layout_words("".join(part for part in layout.body[position + 1 :] if isinstance(part, str)))
        self._before = layout.body[:position]
        self._id_format = layout.id_format
        self._end = layout_words(layout.end)

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], index: int) -> Steps[CallOutcome]:
        found = yield from self._read_head(reader, index)
        if found is None or found[0] not in names:
            return CallOutcome.BROKEN
        ends = yield from self._has_no_arguments(reader)
        if not ends and (yield from reader.peek()) not in ('"', "{"):
            return CallOutcome.BROKEN
        reader.stop_recording()
        log.start(*found)
        if ends:
            log.arguments("{}")
        is_whole = ends or (yield from self._read_arguments(reader, log.arguments))
        log.end()
        return CallOutcome.CALL if is_whole else CallOutcome.BROKEN_CALL

    def _read_head(self, reader: TextReader, index: int) -> Steps[tuple[str, str | None] | None]:
        """Read the call's name and id; None without a name. Words between name and arguments may be missing."""
        name = ""
        call_id: str | None = None
        for part in self._before:
            yield from reader.skip_space()
            if part is CallField.NAME:
                name = yield from reader.read_run(_NAME)
            elif part is CallField.ID:
                call_id = (yield from reader.read_run(_ID)) or None
            elif part is CallField.INDEX:
                written = yield from reader.read_run(_INDEX)
                if self._id_format:
                    call_id = self._id_format.format(name=name, index=written or index)
            elif isinstance(part, str):
                for word in layout_words(part):
                    yield from reader.skip_space()
                    if not (yield from reader.skip(word)) and not name:
                        return None
        yield from reader.skip_space()
        return (name, call_id) if name else None

    def _has_no_arguments(self, reader: TextReader) -> Steps[bool]:
        """Return whether the call ends here, without arguments."""
        following = (*self.closing[:1], *self._end[:1])
        if following and reader.has_ended:
            return False
        for word in following:
            if (yield from reader.sees(word)):
                return True
        return not following and not (yield from reader.peek())


def _ignore(text: str) -> None:
    pass
