"""Gemma 4: <|tool_call>call:NAME{key:value,...}<tool_call|>, with strings between <|"|> and keys in alphabetical order.

The template renders the text of an answer after its calls; models write it before them.
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

_QUOTE = '<|"|>'
_QUOTE_MARKS = Marks((_QUOTE,))
_BARE_KEY = re.compile(r"[^\s:,{}\[\]<]+")
_LAYOUT = CallLayout(
    begin="", open="<|tool_call>call:", body=(CallField.NAME, CallField.ARGUMENTS, "<tool_call|>"), after_text=None
)
_MAX_DEPTH = 4  # of arguments; a grammar has a rule for each position of a value
_ANY_TYPES = frozenset(("string", "array", "object", "number", "boolean"))


@dataclass(frozen=True, slots=True)
class Gemma4Format(ToolFormat):
    """The tool format of Gemma 4. A string value cannot contain the mark that ends strings."""

    @property
    def marks(self) -> tuple[str, ...]:
        return ("<|tool_call>", "<tool_call|>", _QUOTE)

    def parser(self, names: Collection[str]) -> ToolParser:
        answer = AnswerReader(NamedCallReader(_LAYOUT, _read_arguments), _LAYOUT)
        return answer.parser(names, after_text=_LAYOUT.after_text)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        end = builder.literal("<tool_call|>")
        bodies = (
            f"{builder.literal(tool.name)} {_object_grammar(builder, tool.parameters, _MAX_DEPTH)} {end}"
            for tool in tools
        )
        return answer_grammar(builder, _LAYOUT, builder.rule(*bodies), min_calls=min_calls, is_parallel=is_parallel)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        for key in property_names(tool.parameters):
            if not _BARE_KEY.fullmatch(key) or key != key.strip("\"'"):
                return f"the property {quote(key)}"
        return next((f"the text {quote(text)}" for text in constant_texts(tool.parameters) if _QUOTE in text), None)

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        return unenforced_members(tool.parameters, partial(unenforced_value, depth=_MAX_DEPTH - 1))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return _LAYOUT.write([WrittenCall(call.name, _written(json.loads(call.arguments))) for call in calls])


def _read_arguments(reader: TextReader, emit: Emit) -> Steps[bool]:
    return read_value(reader, emit, _read_atom)


def _read_atom(reader: TextReader, emit: Emit, comma: str, is_key: bool) -> Steps[bool]:
    if (yield from reader.skip(_QUOTE)):
        emit(comma + '"')
        end = yield from reader.read_until(_QUOTE_MARKS, lambda text: emit(json.dumps(text, ensure_ascii=False)[1:-1]))
        if end is None:
            return False
        reader.take(len(end))
        emit('"')
        return True
    if is_key and (key := (yield from reader.read_run(_BARE_KEY))):
        emit(comma + json.dumps(key.strip("\"'"), ensure_ascii=False))
        return True
    return (yield from read_json_atom(reader, emit, comma, is_key))


def _written(value: object) -> str:
    if isinstance(value, str):
        return f"{_QUOTE}{value}{_QUOTE}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(value[key])}" for key in _sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sorted(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=str.lower)


def _object_grammar(builder: GrammarBuilder, schema: Schema, depth: int) -> str:
    value = partial(_value_grammar, builder, depth=depth - 1)
    members = members_grammar(builder, schema, ":", ",", value, _sorted)
    return f'"{{" {members} "}}"'


def _value_grammar(builder: GrammarBuilder, schema: Schema, *, depth: int) -> str:
    if constants := scalar_constants(schema):
        return one_of(builder, map(_written, constants))
    if choices := choices_of(schema):
        return builder.rule(*(_value_grammar(builder, choice, depth=depth) for choice in choices))
    types = types_of(schema) or _ANY_TYPES
    plain = sorted(types & PLAIN_TYPES)
    values = []
    if "string" in types:
        values.append(_string_grammar(builder))
    if "array" in types and depth > 0:
        values.append(_array_grammar(builder, schema, depth))
    if "object" in types and depth > 0:
        values.append(_object_grammar(builder, schema, depth))
    if "null" in types:
        values.append('"None"')
    if plain:
        given = schema if isinstance(schema, Mapping) and types <= PLAIN_TYPES else {"type": plain}
        values.append(json_grammar(builder, given))
    # Deeper values are any text of the model.
    return builder.rule(*values) if values else _string_grammar(builder)


def _array_grammar(builder: GrammarBuilder, schema: Schema, depth: int) -> str:
    item = _value_grammar(builder, item_schema(schema), depth=depth - 1)
    least, most = item_counts(schema)
    if most == 0:
        return '"[]"'
    more = builder.rule(f'"," {item}')
    members = f"{item} {more}{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    if not least:
        members = builder.rule('""', members)
    return f'"[" {members} "]"'


def _string_grammar(builder: GrammarBuilder) -> str:
    return f"{builder.literal(_QUOTE)} {builder.text_until(_QUOTE)}"


FORMAT = Gemma4Format("gemma4")
