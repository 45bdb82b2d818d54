"""Functionary 3.2: an answer is messages to recipients; the prompt ends with the mark before the first.

all\\nthe answer>>>NAME\\n{...}>>>NAME\\n{...}
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool, ToolFormat, WrittenCall
from server.tools.grammars import body_grammar
from server.tools.layout import CallField, CallLayout
from server.tools.reading.json_reader import read_arguments
from server.tools.reading.parser import CallEventLog, ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader

_MARK = ">>>"
_NAME = re.compile(r"[\w.-]+")
_TO_ALL = "all\n"
# Any text in which no name follows the mark.
_TEXT = r"([^>]|>[^>]|>>[^>]|>>>>*[^>a-zA-Z_])*>*"
_LAYOUT = CallLayout(begin="", open="", body=(CallField.NAME, "\n", CallField.ARGUMENTS), separator=_MARK)


@dataclass(frozen=True, slots=True)
class RecipientFormat(ToolFormat):
    """The format of messages to recipients. The user is the recipient "all"."""

    @property
    def marks(self) -> tuple[str, ...]:
        return (_MARK,)

    def answer_header(self, prompt: str) -> str:
        return _TO_ALL if prompt.endswith(_MARK) else ""

    def parser(self, names: Collection[str]) -> ToolParser:
        return ToolParser(lambda reader, log: _read_answer(reader, log, names), after_text="")

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        call = body_grammar(builder, _LAYOUT, tools)
        following = builder.rule(f"{builder.literal(_MARK)} {call}")
        calls = f"{call} {following}*" if is_parallel else call
        if min_calls:
            return calls
        text = f"{builder.literal(_TO_ALL)} {builder.regex(_TEXT)}"
        return builder.rule(calls, f"{text} {following}*" if is_parallel else builder.rule(text, f"{text} {following}"))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return _LAYOUT.write(calls)


def _read_answer(reader: TextReader, log: CallEventLog, names: Collection[str]) -> Steps[None]:
    reader.record()
    while True:
        yield from _read_message(reader, log, names)
        mark = yield from reader.read_until(Marks((_MARK,)), log.text)
        if mark is None:
            return
        reader.record()
        reader.take(len(mark))


def _read_message(reader: TextReader, log: CallEventLog, names: Collection[str]) -> Steps[None]:
    """Read a recipient, and the arguments if it is a tool. Without a known recipient, it is text."""
    name = yield from reader.read_run(_NAME)
    is_header = yield from reader.skip("\n")
    if is_header and name == _TO_ALL.strip():
        reader.stop_recording()
        return
    if not is_header or name not in names or not (yield from reader.sees("{")):
        log.text(reader.recorded())
        return
    reader.stop_recording()
    log.start(name)
    yield from read_arguments(reader, log.arguments)
    log.end()


FORMAT = RecipientFormat("functionary_v32", takes_object_arguments=False)
