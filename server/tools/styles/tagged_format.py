"""TaggedFormat: the ToolFormat of calls that write arguments between tags. Its parser emits them as JSON."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from server.schemas.base import Location, quote
from server.structured_outputs.grammar import GrammarBuilder, one_of
from server.tools.arguments.schema_texts import constant_texts, property_names
from server.tools.arguments.schemas import (
    constants_of,
    json_value,
    object_schema,
    property_schema,
    schema_of,
    types_of,
    value_text,
)
from server.tools.arguments.unenforced import unenforced_members, unenforced_string, unenforced_text
from server.tools.format import Schema, Tool, ToolFormat, WrittenCall
from server.tools.grammars import answer_grammar, json_grammar
from server.tools.layout import CallField, layout_words
from server.tools.reading.answer_reader import AnswerReader
from server.tools.reading.call_reader import CallOutcome
from server.tools.reading.parser import CallEventLog, ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader
from server.tools.styles.tagged_layout import TYPE, TaggedLayout

_NAME = re.compile(r"[\w.-]+")
_KEY = re.compile(r"[^<>\"\n]+")
_INDEX = re.compile(r"[0-9]+")
_TYPE = re.compile(r"[a-z]+")
_TYPE_NAMES = "number|boolean|null|array|object"
_ANY_KEY = '[^<>"\\s]+'


class TaggedCallReader:
    """A CallReader of a TaggedLayout. A value ends at the first tag that closes it."""

    def __init__(self, layout: TaggedLayout) -> None:
        self.opening = layout_words(layout.call.open)
        close = layout_words(layout.close)
        # A call ends with the first of these words; the model may leave out the others.
        self._close, self.closing = close[0], close[1:]
        self._after_name = layout.after_name
        self._layout = layout
        self._open_key = layout_words(layout.open_key)
        self._open_value = tuple(map(layout_words, layout.open_value.split(TYPE)))
        self._value_end = Marks((layout.closing_tag[0],))

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], _index: int) -> Steps[CallOutcome]:
        yield from reader.skip_space()
        name = yield from reader.read_run(_NAME)
        # Any text may follow the name, but some must: the name itself could continue.
        if name not in names or not (yield from reader.peek()):
            return CallOutcome.BROKEN
        for part in self._after_name:
            yield from reader.skip_space()
            if part is CallField.INDEX:
                yield from reader.read_run(_INDEX)
            elif part is CallField.NAME:
                if not (yield from reader.skip(name)):
                    return CallOutcome.BROKEN
            else:
                yield from self._skip(reader, layout_words(str(part)))
        yield from reader.skip_space()
        if not (yield from reader.sees(self._close)) and not (yield from reader.sees(self._open_key[0])):
            return CallOutcome.BROKEN
        reader.stop_recording()
        log.start(name)
        is_whole = yield from self._read_arguments(reader, log, names, name)
        log.end()
        return CallOutcome.CALL if is_whole else CallOutcome.BROKEN_CALL

    def _read_arguments(self, reader: TextReader, log: CallEventLog, names: Collection[str], name: str) -> Steps[bool]:
        log.arguments("{")
        comma = ""
        while True:
            yield from reader.skip_space()
            if (yield from reader.skip(self._close)):
                log.arguments("}")
                return True
            if not (yield from self._skip(reader, self._open_key)):
                return False
            key = (yield from reader.read_run(_KEY)).strip()
            open_string = self._layout.open_string
            is_string = open_string is not None and (yield from reader.skip(open_string))
            if not key or (not is_string and not (yield from self._skip_open_value(reader))):
                return False
            value = yield from self._read_value(reader)
            if value is None:
                return False
            # If the tag marks strings, the schema is not needed to recognize them.
            schema = property_schema(schema_of(names, name), key) if open_string is None else True
            written = json_value(value, {"type": "string"} if is_string else schema)
            log.arguments(f"{comma}{json.dumps(key, ensure_ascii=False)}: {written}")
            comma = ", "

    def _skip_open_value(self, reader: TextReader) -> Steps[bool]:
        before_type, *after_type = self._open_value
        if not (yield from self._skip(reader, before_type)):
            return False
        for words in after_type:
            yield from reader.read_run(_TYPE)
            if not (yield from self._skip(reader, words)):
                return False
        return True

    def _read_value(self, reader: TextReader) -> Steps[str | None]:
        """Return the text between the tags, without the template's line breaks; None if the value is incomplete."""
        pieces: list[str] = []
        mark = yield from reader.read_until(self._value_end, pieces.append)
        if mark is None or not (yield from self._skip(reader, layout_words(self._layout.close_value))):
            return None
        value = "".join(pieces)
        layout = self._layout
        if layout.open_value.endswith("\n"):
            value = value.removeprefix("\n")
        if layout.close_value.startswith("\n"):
            value = value.removesuffix("\n")
        return value

    def _skip(self, reader: TextReader, expected: tuple[str, ...]) -> Steps[bool]:
        """Consume the expected words, up to the first missing one; return whether all were there."""
        for word in expected:
            yield from reader.skip_space()
            if not (yield from reader.skip(word)):
                return False
        return True


@dataclass(frozen=True, slots=True)
class TaggedFormat(ToolFormat):
    """The format of a TaggedLayout. Strings are not quoted, so a value cannot contain the tag that closes it."""

    layout: TaggedLayout
    other_triggers: tuple[str, ...] = ()  # other marks that models write before calls

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.layout.marks, *self.other_triggers)

    def parser(self, names: Collection[str]) -> ToolParser:
        layout = self.layout.call
        answer = AnswerReader(TaggedCallReader(self.layout), layout, (*self.other_triggers, *self._last_tag()))
        return answer.parser(names, after_text=layout.after_text)

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        body = builder.rule(*(self._body(builder, tool) for tool in tools))
        return answer_grammar(builder, self.layout.call, body, min_calls=min_calls, is_parallel=is_parallel)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        schema = object_schema(tool.parameters)
        for key in schema.get("properties", ()) if isinstance(schema, Mapping) else ():
            if not _KEY.fullmatch(key) or key != key.strip():
                return f"the property {quote(key)}"
        tag = self.layout.closing_tag[0]
        texts = chain(constant_texts(schema), property_names(schema))
        return next((f"the text {quote(text)}" for text in texts if tag in text), None)

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        has_string_tag = self.layout.open_string is not None
        return unenforced_members(tool.parameters, unenforced_string if has_string_tag else unenforced_text)

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.layout.write(calls)

    def _last_tag(self) -> tuple[str, ...]:
        """Return the last tag before the tool's name. It may start a call: models sometimes omit the outer tag."""
        tags = [word for word in layout_words(self.layout.call.opening) if len(word) > 1 and word[0] == "<"]
        return tuple(tags[-1:])

    def _body(self, builder: GrammarBuilder, tool: Tool) -> str:
        name = builder.literal(tool.name)
        fields = {CallField.INDEX: builder.regex(_INDEX.pattern), CallField.NAME: name}
        after = (
            fields[part] if isinstance(part, CallField) else builder.literal(part)
            for part in self.layout.after_name
            if part
        )
        head = " ".join((name, *after))
        return f"{head} {self._arguments(builder, tool.parameters)} {builder.literal(self.layout.close)}"

    def _arguments(self, builder: GrammarBuilder, schema: Schema) -> str:
        """Return a grammar of the schema's properties in the schema's order, which is the order in the prompt."""
        schema = object_schema(schema)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(schema, Mapping) or not isinstance(properties, Mapping):
            return builder.rule(self._argument(builder, builder.regex(_ANY_KEY), property_schema(schema, ""))) + "*"
        required = schema.get("required", ())
        rules = [
            builder.rule(self._argument(builder, builder.literal(key), property_schema(schema, key)))
            + ("" if key in required else "?")
            for key in properties
        ]
        return " ".join(rules)

    def _argument(self, builder: GrammarBuilder, key: str, schema: Schema) -> str:
        values = builder.rule(*self._values(builder, schema))
        return f"{builder.literal(self.layout.open_key)} {key} {values}"

    def _values(self, builder: GrammarBuilder, schema: Schema) -> list[str]:
        """Return the alternative grammars of a value, from the end of its key through the tag that closes it."""
        types = types_of(schema)
        constants = constants_of(schema)
        values = []
        has_string = not types or "string" in types
        has_string_tag = self.layout.open_string is not None
        if has_string:
            opening = builder.literal(self.layout.open_value_of(""))
            if constants:
                texts = [value_text(value) for value in constants if isinstance(value, str) or not has_string_tag]
                values.append(f"{opening} {one_of(builder, texts)} {builder.literal(self.layout.close_value)}")
            else:
                # Up to the tag, where the parser ends the value too. The model decides on the line break before it.
                tag, rest = self.layout.closing_tag
                following = f" {builder.literal(rest)}" if rest else ""
                values.append(f"{opening} {builder.text_until(tag)}{following}")
        if types != {"string"} and (has_string_tag or not has_string):
            opening = f" {builder.regex(_TYPE_NAMES)} ".join(map(builder.literal, self.layout.open_value.split(TYPE)))
            values.append(f"{opening} {json_grammar(builder, schema)} {builder.literal(self.layout.close_value)}")
        return values
