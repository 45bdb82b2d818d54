"""BareKeyFormat: Gemma's calls, {key:value,...}, with strings between two equal marks and keys in alphabetical order.

The templates render the text of an answer after its calls; models write it before them.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from server.schemas.base import Location, quote
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.tools.arguments.nested_values import (
    PLAIN_TYPES,
    choices_of,
    item_counts,
    item_schema,
    scalar_constants,
    unenforced_value,
)
from server.tools.arguments.schema_texts import constant_texts, property_names
from server.tools.arguments.schemas import types_of
from server.tools.arguments.unenforced import unenforced_members
from server.tools.format import Schema, Tool, ToolFormat, WrittenCall
from server.tools.grammars import answer_grammar, json_grammar, members_grammar
from server.tools.layout import CallField, CallLayout
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import NamedCallReader
from server.tools.reading.json_reader import Emit, read_json_atom, read_value
from server.tools.reading.parser import ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader

_BARE_KEY = re.compile(r"[^\s:,{}\[\]<]+")
_MAX_DEPTH = 4  # of arguments; a grammar has a rule for each position of a value
_ANY_TYPES = frozenset(("string", "array", "object", "number", "boolean"))


@dataclass(frozen=True, slots=True)
class BareKeyFormat(ToolFormat):
    """The tool format of Gemma models. A string value cannot contain `quote`, which begins and ends strings."""

    open: str
    close: str
    quote: str

    @property
    def layout(self) -> CallLayout:
        return CallLayout("", self.open, (CallField.NAME, CallField.ARGUMENTS, self.close), after_text=None)

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.layout.marks, self.quote)

    def parser(self, names: Collection[str]) -> ToolParser:
        answer = AnswerReader(NamedCallReader(self.layout, partial(_read_arguments, self.quote)), self.layout)
        return answer.parser(names, after_text=None)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        end = builder.literal(self.close)
        arguments = _Grammar(builder, self.quote)
        bodies = (
            f"{builder.literal(tool.name)} {arguments.of_object(tool.parameters, _MAX_DEPTH)} {end}" for tool in tools
        )
        body = builder.rule(*bodies)
        return answer_grammar(builder, self.layout, body, min_calls=min_calls, is_parallel=is_parallel)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        for key in property_names(tool.parameters):
            if not _BARE_KEY.fullmatch(key) or key != key.strip("\"'"):
                return f"the property {quote(key)}"
        return next((f"the text {quote(text)}" for text in constant_texts(tool.parameters) if self.quote in text), None)

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        return unenforced_members(tool.parameters, partial(unenforced_value, depth=_MAX_DEPTH - 1))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        written = (WrittenCall(call.name, _written(json.loads(call.arguments), self.quote)) for call in calls)
        return self.layout.write(list(written))


def _read_arguments(quote_mark: str, reader: TextReader, emit: Emit) -> Steps[bool]:
    return read_value(reader, emit, partial(_read_atom, Marks((quote_mark,)), quote_mark))


def _read_atom(marks: Marks, quote_mark: str, reader: TextReader, emit: Emit, comma: str, is_key: bool) -> Steps[bool]:
    if (yield from reader.skip(quote_mark)):
        emit(comma + '"')
        end = yield from reader.read_until(marks, lambda text: emit(json.dumps(text, ensure_ascii=False)[1:-1]))
        if end is None:
            return False
        reader.take(len(end))
        emit('"')
        return True
    if is_key and (key := (yield from reader.read_run(_BARE_KEY))):
        emit(comma + json.dumps(key.strip("\"'"), ensure_ascii=False))
        return True
    return (yield from read_json_atom(reader, emit, comma, is_key))


def _written(value: object, quote_mark: str) -> str:
    if isinstance(value, str):
        return f"{quote_mark}{value}{quote_mark}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(value[key], quote_mark)}" for key in _sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, quote_mark) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sorted(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=str.lower)


@dataclass(frozen=True, slots=True)
class _Grammar:
    """Grammars of a call's values, whose strings stand between two of quote_mark."""

    builder: GrammarBuilder
    quote_mark: str

    def of_object(self, schema: Schema, depth: int) -> str:
        value = partial(self._of_value, depth=depth - 1)
        members = members_grammar(self.builder, schema, ":", ",", value, _sorted)
        return f'"{{" {members} "}}"'

    def _of_value(self, schema: Schema, *, depth: int) -> str:
        builder = self.builder
        if constants := scalar_constants(schema):
            return one_of(builder, (_written(constant, self.quote_mark) for constant in constants))
        if choices := choices_of(schema):
            return builder.rule(*(self._of_value(choice, depth=depth) for choice in choices))
        types = types_of(schema) or _ANY_TYPES
        plain = sorted(types & PLAIN_TYPES)
        values = []
        if "string" in types:
            values.append(self._of_string())
        if "array" in types and depth > 0:
            values.append(self._of_array(schema, depth))
        if "object" in types and depth > 0:
            values.append(self.of_object(schema, depth))
        if "null" in types:
            values.append('"None"')
        if plain:
            given = schema if isinstance(schema, Mapping) and types <= PLAIN_TYPES else {"type": plain}
            values.append(json_grammar(builder, given))
        # Deeper values are any text of the model.
        return builder.rule(*values) if values else self._of_string()

    def _of_array(self, schema: Schema, depth: int) -> str:
        item = self._of_value(item_schema(schema), depth=depth - 1)
        least, most = item_counts(schema)
        if most == 0:
            return '"[]"'
        more = self.builder.rule(f'"," {item}')
        members = f"{item} {more}{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        if not least:
            members = self.builder.rule('""', members)
        return f'"[" {members} "]"'

    def _of_string(self) -> str:
        mark = self.builder.literal(self.quote_mark)
        return f"{mark} {self.builder.text_until(self.quote_mark)}"
