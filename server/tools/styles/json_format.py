"""JsonFormat: the ToolFormat of calls that are JSON objects, or names followed by JSON."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool, ToolFormat, WrittenCall
from server.tools.grammars import answer_grammar, body_grammar
from server.tools.layout import CallLayout, object_keys
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallReader, NamedCallReader, ObjectCallReader
from server.tools.reading.parser import ToolParser


@dataclass(frozen=True, slots=True)
class JsonFormat(ToolFormat):
    """The format of a CallLayout whose arguments are JSON."""

    layout: CallLayout
    other_triggers: tuple[str, ...] = ()  # other marks that models write before calls

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.layout.marks, *self.other_triggers)

    def parser(self, names: Collection[str]) -> ToolParser:
        return self._answer_reader().parser(names, after_text=self.layout.after_text)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        body = body_grammar(builder, self.layout, tools)
        return answer_grammar(builder, self.layout, body, min_calls=min_calls, is_parallel=is_parallel)

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.layout.write(calls)

    def _answer_reader(self) -> AnswerReader:
        layout = self.layout
        keys = object_keys(layout)
        calls: CallReader = NamedCallReader(layout) if keys is None else ObjectCallReader(keys)
        stray = None if keys is None or keys.parent or layout.trigger is None else f'{{"{keys.name}"'
        return AnswerReader(calls, layout, self.other_triggers, stray)
