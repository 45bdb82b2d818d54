"""Mistral: [TOOL_CALLS], and a list of JSON objects with ids, or a name and its arguments for each call."""

from collections.abc import Collection
from dataclasses import dataclass

from server.tools.answer_reader import AnswerReader
from server.tools.call_reader import NamedCallReader, ObjectCallReader, Outcome
from server.tools.event_log import EventLog
from server.tools.layout import CallLayout, Slot, object_keys
from server.tools.layout_format import LayoutFormat
from server.tools.reader import Reader, Steps

_LIST = CallLayout(
    begin="[TOOL_CALLS][",
    open='{"name": "',
    body=(Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, ', "id": "', Slot.ID, '"}'),
    separator=", ",
    end="]",
    after_text=None,
)
_NAMED = CallLayout(
    begin="",
    open="[TOOL_CALLS]",
    body=(Slot.NAME, "[CALL_ID]", Slot.ID, "[ARGS]", Slot.ARGUMENTS),
    after_text=None,
)


class _EitherCallReader:
    """Both ways, since models of one tokenizer version are served with templates of another."""

    def __init__(self) -> None:
        self.opening: tuple[str, ...] = ()
        self.closing: tuple[str, ...] = ()
        keys = object_keys(_LIST)
        assert keys is not None
        self._object = ObjectCallReader(keys)
        self._named = NamedCallReader(_NAMED)

    def read(self, reader: Reader, log: EventLog, names: Collection[str], index: int) -> Steps[Outcome]:
        calls = self._object if (yield from reader.sees("{")) else self._named
        return (yield from calls.read(reader, log, names, index))


@dataclass(frozen=True, slots=True)
class MistralFormat(LayoutFormat):
    """Writes calls in the one way that its layout says, and reads both."""

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.layout.marks, *_LIST.marks, *_NAMED.marks)))

    def _answer_reader(self) -> AnswerReader:
        return AnswerReader(_EitherCallReader(), begin=_LIST.begin, separator=_LIST.separator, end=_LIST.end)


FORMAT = MistralFormat("mistral", _LIST, call_id_length=9)
