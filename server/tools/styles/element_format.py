"""ElementFormat: MiniMax M3's calls, whose arguments are elements, nested as objects and arrays are.

Every tag has a mark before it, which no value can contain. `null` is left out of objects.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
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
from server.tools.arguments.schemas import json_value, object_schema, property_schema, schema_of, types_of, value_text
from server.tools.arguments.unenforced import unenforced_members, unenforced_text
from server.tools.format import Schema, Tool, ToolFormat, WrittenCall
from server.tools.grammars import answer_grammar, json_grammar
from server.tools.layout import CallField, CallLayout, layout_words
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallOutcome
from server.tools.reading.parser import CallEventLog, ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader

_NAME = re.compile(r"[\w.-]+")
_ANY_KEY = r"[^<>/ \t\r\n]+"
_KEY = re.compile(_ANY_KEY)
_ITEM = "item"
_END_NAME = '">'
_MAX_DEPTH = 4  # of values that a grammar enforces; it has a rule for each position of a value
_MAX_READ_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ElementFormat(ToolFormat):
    """A tool format with a mark before every tag: <mark><key>value<mark></key>, <item> for each item of an array."""

    mark: str

    @property
    def layout(self) -> CallLayout:
        mark = self.mark
        body = (CallField.NAME, _END_NAME, CallField.ARGUMENTS, f"{mark}</invoke>")
        return CallLayout(f"{mark}<tool_call>\n", f'{mark}<invoke name="', body, "\n", f"\n{mark}</tool_call>")

    @property
    def marks(self) -> tuple[str, ...]:
        return self.layout.marks

    def parser(self, names: Collection[str]) -> ToolParser:
        return AnswerReader(_ElementReader(self), self.layout).parser(names, after_text="")

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        values = _Grammar(builder, self.mark)
        bodies = (values.of_call(tool) for tool in tools)
        return answer_grammar(builder, self.layout, builder.rule(*bodies), min_calls=min_calls, is_parallel=is_parallel)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        key = next((key for key in property_names(tool.parameters) if not _KEY.fullmatch(key)), None)
        if key is not None:
            return f"the property {quote(key)}"
        return next((f"the text {quote(text)}" for text in constant_texts(tool.parameters) if self.mark in text), None)

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        return unenforced_members(tool.parameters, partial(_unenforced, depth=_MAX_DEPTH - 1))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.layout.write(
            [WrittenCall(call.name, self._written(json.loads(call.arguments)), call.id) for call in calls]
        )

    def _written(self, value: object) -> str:
        if isinstance(value, Mapping):
            return "".join(self._element(key, each) for key, each in value.items() if each is not None)
        if isinstance(value, list):
            return "".join(self._element(_ITEM, each) for each in value)
        return "" if value is None else value_text(value)

    def _element(self, key: str, value: object) -> str:
        return f"{self.mark}<{key}>{self._written(value)}{self.mark}</{key}>"


class _ElementReader:
    """A CallReader of an ElementFormat."""

    def __init__(self, style: ElementFormat) -> None:
        self.opening = layout_words(style.layout.open)
        self.closing: tuple[str, ...] = ()
        self._mark = style.mark
        self._marks = Marks((style.mark,))

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], _index: int) -> Steps[CallOutcome]:
        name = yield from reader.read_run(_NAME)
        if name not in names or not (yield from reader.skip(_END_NAME)):
            return CallOutcome.BROKEN
        reader.stop_recording()
        log.start(name)
        arguments = yield from self._read_children(reader, schema_of(names, name), 0)
        if arguments in ('""', "[]"):
            arguments = "{}"
        is_whole = arguments is not None and arguments.startswith("{")
        log.arguments(arguments if arguments is not None and is_whole else "{")
        log.end()
        return CallOutcome.CALL if is_whole else CallOutcome.BROKEN_CALL

    def _read_children(self, reader: TextReader, schema: Schema, depth: int) -> Steps[str | None]:
        """Return the JSON of an element's value, up to the tag that closes it; None if it is malformed.

        Any closing tag closes the innermost element, whatever its name.
        """
        pieces: list[str] = []
        items: list[str] = []
        members: dict[str, str] = {}
        types = types_of(schema)
        while (yield from reader.read_until(self._marks, pieces.append)) is not None:
            reader.take(len(self._mark))
            if (yield from reader.skip("</")):
                yield from reader.read_run(_KEY)
                is_closed = yield from reader.skip(">")
                return _value_of("".join(pieces), items, members, schema) if is_closed else None
            if depth == _MAX_READ_DEPTH or not (yield from reader.skip("<")):
                return None
            key = yield from reader.read_run(_KEY)
            if not (yield from reader.skip(">")):
                return None
            is_item = key == _ITEM and not members and (not types or "array" in types)
            inner = item_schema(_of_type(schema, "array")) if is_item else property_schema(_object(schema), key)
            value = yield from self._read_children(reader, inner, depth + 1)
            if value is None:
                return None
            if is_item:
                items.append(value)
            else:
                members[key] = value
        return None


def _value_of(text: str, items: Sequence[str], members: Mapping[str, str], schema: Schema) -> str | None:
    """Return a value as JSON; None for a mixture of text, items and members."""
    if items or members:
        if text.strip() or (items and members):
            return None
        written = (f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in members.items())
        return f"[{', '.join(items)}]" if items else f"{{{', '.join(written)}}}"
    types = types_of(schema)
    if not text.strip() and types and "string" not in types:
        return "[]" if "array" in types else "{}" if "object" in types else "null"
    return json_value(text, schema)


def _of_type(schema: Schema, kind: str) -> Schema:
    """Return the alternative of an anyOf that allows `kind`; the schema itself if it has none."""
    return next((choice for choice in choices_of(schema) if kind in types_of(choice)), schema)


def _object(schema: Schema) -> Schema:
    return object_schema(_of_type(schema, "object"))


def _is_mixed(types: Collection[str]) -> bool:
    """Whether a value may be a text or something else."""
    return not types or ("string" in types and len(types) > 1)


def _unenforced(schema: Schema, *, depth: int) -> list[Location]:
    if scalar_constants(schema):
        return []
    if _is_mixed(types_of(schema)):
        return unenforced_text(schema)
    return unenforced_value(schema, depth=depth)


@dataclass(frozen=True, slots=True)
class _Grammar:
    """Grammars of a call's elements."""

    builder: GrammarBuilder
    mark: str

    def of_call(self, tool: Tool) -> str:
        literal = self.builder.literal
        end = f"{literal(self.mark)} {literal('</invoke>')}"
        return f"{literal(tool.name + _END_NAME)} {self.members(tool.parameters, _MAX_DEPTH)} {end}"

    def members(self, schema: Schema, depth: int) -> str:
        """Return the grammar of an object's elements, in the order of its properties."""
        schema = object_schema(schema)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(schema, Mapping) or not isinstance(properties, Mapping):
            return self._element(None, property_schema(schema, ""), depth - 1) + "*"
        required = schema.get("required", ())
        elements = (
            self._element(key, property_schema(schema, key), depth - 1) + ("" if key in required else "?")
            for key in properties
        )
        return " ".join(elements) or '""'

    def _element(self, key: str | None, schema: Schema, depth: int) -> str:
        return self.builder.rule(f"{self.builder.literal(self.mark)} {self._tagged(key, schema, depth)}")

    def _tagged(self, key: str | None, schema: Schema, depth: int) -> str:
        """Return the grammar of an element after its mark. key: None for any name."""
        builder = self.builder
        mark = builder.literal(self.mark)
        # Whole tags: no literal may begin another one.
        opening = builder.regex(f"<{_ANY_KEY}>") if key is None else builder.literal(f"<{key}>")
        close = builder.regex(f"</{_ANY_KEY}>") if key is None else builder.literal(f"</{key}>")
        if constants := scalar_constants(schema):
            return builder.rule(f"{opening} {one_of(builder, map(value_text, constants))} {mark} {close}")
        types = types_of(schema)
        if types and "string" not in types:
            values = builder.rule(*(self._value(choice, depth) for choice in choices_of(schema) or [schema]))
            return builder.rule(f"{opening} {values} {mark} {close}")
        rest = [close]
        if depth > 0 and (not types or types & {"array", "object"}):
            # A text up to a mark, which may be empty, precedes nested elements, too.
            nested = self._tagged(_ITEM if types and "object" not in types else None, True, depth - 1)
            rest.append(f"{nested} {builder.rule(f'{mark} {nested}')}* {mark} {close}")
        return builder.rule(f"{opening} {builder.text_until(self.mark)} {builder.rule(*rest)}")

    def _value(self, schema: Schema, depth: int) -> str:
        """Return the grammar of a value that is not a text."""
        types = types_of(schema)
        values = []
        if "array" in types:
            item = self._element(_ITEM, item_schema(schema) if depth > 0 else True, depth - 1)
            least, most = item_counts(schema)
            values.append(f"{item}{{{least},{'' if most is None else most}}}" if most != 0 else '""')
        if "object" in types:
            values.append(self.members(schema if depth > 0 else True, depth))
        if plain := sorted(types & (PLAIN_TYPES | {"null"})):
            values.append(json_grammar(self.builder, schema if len(plain) == len(types) else {"type": plain}))
        return self.builder.rule(*values)
