"""PythonicFormat: calls as Python calls, [name(key="value"), ...]."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.schemas.base import Location, quote
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.tools.arguments.schemas import constants_of, object_schema, types_of
from server.tools.arguments.unenforced import unenforced_members
from server.tools.format import Schema, Tool, ToolFormat, WrittenCall
from server.tools.grammars import answer_grammar, json_grammar, members_grammar
from server.tools.layout import CallField, CallLayout
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallOutcome
from server.tools.reading.json_reader import read_value
from server.tools.reading.parser import CallEventLog, ToolParser
from server.tools.reading.text_reader import Steps, TextReader

_NAME = re.compile(r"[\w.-]+")
_KEY = re.compile(r"\w+")


class PythonicCallReader:
    """A CallReader of name(key=value, ...) that emits the arguments, Python literals, as JSON while they arrive."""

    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], _index: int) -> Steps[CallOutcome]:
        name = yield from reader.read_run(_NAME)
        if name not in names or not (yield from reader.skip("(")):
            return CallOutcome.BROKEN
        reader.stop_recording()
        log.start(name)
        is_whole = yield from self._read_arguments(reader, log)
        log.end()
        return CallOutcome.CALL if is_whole else CallOutcome.BROKEN_CALL

    def _read_arguments(self, reader: TextReader, log: CallEventLog) -> Steps[bool]:
        log.arguments("{")
        is_first = True
        while True:
            yield from reader.skip_space()
            if not is_first and (yield from reader.skip(",")):
                yield from reader.skip_space()
            elif not is_first and not (yield from reader.sees(")")):
                return False
            if (yield from reader.skip(")")):
                log.arguments("}")
                return True
            key = yield from reader.read_run(_KEY)
            yield from reader.skip_space()
            if not key or not (yield from reader.skip("=")):
                return False
            log.arguments(f"{'' if is_first else ', '}{json.dumps(key, ensure_ascii=False)}: ")
            if not (yield from read_value(reader, log.arguments)):
                return False
            is_first = False


@dataclass(frozen=True, slots=True)
class PythonicFormat(ToolFormat):
    """The format of Python calls in a list, which is the whole answer, or between marks."""

    begin: str  # ends with the bracket, if there is one
    end: str
    separator: str = ", "

    @property
    def layout(self) -> CallLayout:
        body = (CallField.NAME, "(", CallField.ARGUMENTS, ")")
        # Without a mark, text cannot precede the calls.
        after_text = None if self.begin == "[" else ""
        return CallLayout(self.begin, "", body, self.separator, self.end, after_text=after_text)

    @property
    def marks(self) -> tuple[str, ...]:
        return self.layout.marks

    def parser(self, names: Collection[str]) -> ToolParser:
        layout = self.layout
        return AnswerReader(PythonicCallReader(), layout).parser(names, after_text=layout.after_text)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        body = builder.rule(*(_call_grammar(builder, tool) for tool in tools))
        return answer_grammar(builder, self.layout, body, min_calls=min_calls, is_parallel=is_parallel)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        schema = object_schema(tool.parameters)
        keys = schema.get("properties", ()) if isinstance(schema, Mapping) else ()
        return next((f"the property {quote(key)}" for key in keys if not _KEY.fullmatch(key)), None)

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        return unenforced_members(tool.parameters, lambda _: [])  # values are JSON, which is enforced

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.layout.write([WrittenCall(call.name, _keywords(json.loads(call.arguments))) for call in calls])


def _keywords(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_literal(value)}" for key, value in arguments.items())


def _literal(value: object) -> str:
    """Return the value as a Python literal, with strings quoted as in JSON."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _call_grammar(builder: GrammarBuilder, tool: Tool) -> str:
    arguments = members_grammar(builder, tool.parameters, "=", ", ", partial(_value_grammar, builder))
    return f"{builder.literal(tool.name + '(')} {arguments} {builder.literal(')')}"


def _value_grammar(builder: GrammarBuilder, schema: Schema) -> str:
    types = types_of(schema)
    if types and types <= {"boolean", "null"}:
        values = {"boolean": (True, False), "null": (None,)}
        allowed = constants_of(schema) or [value for kind in sorted(types) for value in values[kind]]
        return one_of(builder, map(repr, allowed))
    return json_grammar(builder, schema)
