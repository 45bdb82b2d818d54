"""JsonFormat: the ToolFormat of calls that are JSON objects, or names followed by JSON."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import FormatBase, Tool, WrittenCall
from server.tools.grammars import answer_grammar, body_grammar
from server.tools.layout import CallLayout, object_keys
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallReader, NamedCallReader, ObjectCallReader
from server.tools.reading.step_parser import StepParser


@dataclass(frozen=True, slots=True)
class JsonFormat(FormatBase):
    """The format of a CallLayout whose arguments are JSON."""

    layout: CallLayout
    other_triggers: tuple[str, ...] = ()  # other marks that models write before calls

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.layout.marks, *self.other_triggers)

    def parser(self, names: Collection[str]) -> StepParser:
        reader = self._answer_reader()
        return StepParser(lambda text, log: reader.read(text, log, names), after_text=self.layout.after_text)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        body = body_grammar(builder, self.layout, tools)
        return answer_grammar(builder, self.layout, body, min_calls=min_calls, is_parallel=is_parallel)

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.layout.write(calls)

    def _answer_reader(self) -> AnswerReader:
        layout = self.layout
        keys = object_keys(layout)
        calls: CallReader = NamedCallReader(layout) if keys is None else ObjectCallReader(keys)
        return AnswerReader(
            calls,
            begin=layout.begin,
            separator=layout.separator,
            end=layout.end,
            other_triggers=self.other_triggers,
            stray=None if keys is None or keys.parent or layout.trigger is None else f'{{"{keys.name}"',
        )
