"""Mistral: [TOOL_CALLS], then a list of JSON objects with ids, or for each call its name and arguments."""

from collections.abc import Collection
from dataclasses import dataclass

from server.tools.layout import CallField, CallLayout, object_keys
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallOutcome, NamedCallReader, ObjectCallReader
from server.tools.reading.parser import CallEventLog
from server.tools.reading.text_reader import Steps, TextReader
from server.tools.styles.json_format import JsonFormat

_LIST = CallLayout(
    begin="[TOOL_CALLS][",
    open='{"name": "',
    body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, ', "id": "', CallField.ID, '"}'),
    separator=", ",
    end="]",
    after_text=None,
)
_NAMED = CallLayout(
    begin="",
    open="[TOOL_CALLS]",
    body=(CallField.NAME, "[CALL_ID]", CallField.ID, "[ARGS]", CallField.ARGUMENTS),
    after_text=None,
)


class _EitherCallReader:
    """A CallReader of both of Mistral's layouts: a model's tokenizer and its template may differ in version."""

    def __init__(self) -> None:
        self.opening: tuple[str, ...] = ()
        self.closing: tuple[str, ...] = ()
        keys = object_keys(_LIST)
        assert keys is not None
        self._object = ObjectCallReader(keys)
        self._named = NamedCallReader(_NAMED)

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], index: int) -> Steps[CallOutcome]:
        calls = self._object if (yield from reader.sees("{")) else self._named
        return (yield from calls.read(reader, log, names, index))


@dataclass(frozen=True, slots=True)
class MistralFormat(JsonFormat):
    """Mistral's format, which writes calls in its layout and reads both of Mistral's layouts."""

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.layout.marks, *_LIST.marks, *_NAMED.marks)))

    def _answer_reader(self) -> AnswerReader:
        return AnswerReader(_EitherCallReader(), _LIST)


FORMAT = MistralFormat("mistral", _LIST, call_id_length=9)
