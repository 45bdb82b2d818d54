"""CallReader: reads one call of a format, from behind what opens it; the two whose arguments are JSON."""

import re
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Protocol

from server.tools.event_log import EventLog
from server.tools.json_scanner import Emit, read_arguments, read_string, read_value
from server.tools.layout import CallLayout, ObjectKeys, Slot, words
from server.tools.reader import Reader, Steps

_NAME = re.compile(r"[\w.-]+")
_ID = re.compile(r"[\w.:-]+")
_INDEX = re.compile(r"[0-9]+")
_ARGUMENT_KEYS = ("arguments", "parameters")


class Outcome(Enum):
    """What came of reading a call."""

    CALL = auto()
    TEXT = auto()  # it was whole, but of an unknown name: no event was emitted, and what was read is text
    BROKEN = auto()  # it broke off; no event was emitted, and what was read is text
    BROKEN_CALL = auto()  # it broke off after its start was emitted, and so was its end


class CallReader(Protocol):
    """Reads one call. Readers are immutable."""

    @property
    def opening(self) -> tuple[str, ...]:
        """Words that open a call, before what `read` reads."""
        ...

    @property
    def closing(self) -> tuple[str, ...]:
        """Words that follow."""
        ...

    def read(self, reader: Reader, log: EventLog, names: Collection[str], index: int, /) -> Steps[Outcome]:
        """index: the call's number in the answer, from 0."""
        ...


class ObjectCallReader:
    """Reads a call that is a JSON object, its keys in any order."""

    def __init__(self, keys: ObjectKeys) -> None:
        self.opening = words(keys.before)
        self.closing = words(keys.after)
        self._keys = keys

    def read(self, reader: Reader, log: EventLog, names: Collection[str], _index: int) -> Steps[Outcome]:
        call = _ObjectCall(self._keys, reader, log, names)
        if not (yield from call.read_object()):
            if call.is_started:
                log.end()
            return Outcome.BROKEN_CALL if call.is_started else Outcome.BROKEN
        if call.name is None or call.is_unknown:
            return Outcome.TEXT
        if not call.has_arguments:
            log.arguments("{}")
        log.end()
        return Outcome.CALL


class _ObjectCall:
    """One object that is being read."""

    def __init__(self, keys: ObjectKeys, reader: Reader, log: EventLog, names: Collection[str]) -> None:
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
        """Consumes the object; False if it breaks off."""
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
            # The members of the object within are read like those of the call itself.
            is_first = key in (self._keys.parent, "function") and (yield from reader.sees("{"))
            if not is_first and not (yield from self._read_member(key)):
                return False

    def _read_member(self, key: str) -> Steps[bool]:
        reader = self._reader
        if key == self._keys.name and self.name is None:
            self.name = yield from read_string(reader)
            if self.is_started:
                reader.forget()
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
    """Reads a call whose name stands outside of JSON: name<mark>{...}."""

    def __init__(
        self, layout: CallLayout, read_arguments: Callable[[Reader, Emit], Steps[bool]] = read_arguments
    ) -> None:
        """read_arguments: consumes them, which begin with a brace, and emits JSON."""
        self._read_arguments = read_arguments
        slot = layout.body.index(Slot.ARGUMENTS)
        self.opening = words(layout.open)
        self.closing = words("".join(part for part in layout.body[slot + 1 :] if isinstance(part, str)))
        self._before = layout.body[:slot]
        self._id_format = layout.id_format
        self._end = words(layout.end)

    def read(self, reader: Reader, log: EventLog, names: Collection[str], index: int) -> Steps[Outcome]:
        found = yield from self._read_head(reader, index)
        if found is None or found[0] not in names:
            return Outcome.BROKEN
        ends = yield from self._ends(reader)
        if not ends and (yield from reader.peek()) not in ('"', "{"):
            return Outcome.BROKEN
        reader.forget()
        log.start(*found)
        if ends:
            log.arguments("{}")
        is_whole = ends or (yield from self._read_arguments(reader, log.arguments))
        log.end()
        return Outcome.CALL if is_whole else Outcome.BROKEN_CALL

    def _read_head(self, reader: Reader, index: int) -> Steps[tuple[str, str | None] | None]:
        """The name and the id. Behind the name, words may be missing: what must follow is an object."""
        name = ""
        call_id: str | None = None
        for part in self._before:
            yield from reader.skip_space()
            if part is Slot.NAME:
                name = yield from reader.read_run(_NAME)
            elif part is Slot.ID:
                call_id = (yield from reader.read_run(_ID)) or None
            elif part is Slot.INDEX:
                written = yield from reader.read_run(_INDEX)
                if self._id_format:
                    call_id = self._id_format.format(name=name, index=written or index)
            elif isinstance(part, str):
                for word in words(part):
                    yield from reader.skip_space()
                    if not (yield from reader.skip(word)) and not name:
                        return None
        yield from reader.skip_space()
        return (name, call_id) if name else None

    def _ends(self, reader: Reader) -> Steps[bool]:
        """Whether there are no arguments."""
        following = (*self.closing[:1], *self._end[:1])
        if following and reader.has_ended:
            return False
        for word in following:
            if (yield from reader.sees(word)):
                return True
        return not following and not (yield from reader.peek())


def _ignore(text: str) -> None:
    pass
