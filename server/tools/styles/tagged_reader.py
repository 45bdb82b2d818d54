"""TaggedCallReader: a reader of calls whose arguments stand between tags, which emits them as JSON."""

import json
import re
from collections.abc import Collection

from server.tools.arguments.schemas import json_value, property_schema, schema_of
from server.tools.layout import layout_words
from server.tools.reading.call_reader import CallOutcome
from server.tools.reading.parser import CallEventLog
from server.tools.reading.text_reader import Marks, Steps, TextReader
from server.tools.styles.tagged_layout import TaggedLayout

_NAME = re.compile(r"[\w.-]+")
KEY = re.compile(r"[^<>\"\n]+")


class TaggedCallReader:
    """A CallReader of a TaggedLayout. A value ends at the first tag that closes it."""

    def __init__(self, layout: TaggedLayout) -> None:
        self.opening = layout_words(layout.call.open)
        close = layout_words(layout.close)
        # A call ends with the first of these words; the model may leave out the others.
        self._close, self.closing = close[0], close[1:]
        self._after_name = layout_words(layout.after_name)
        self._layout = layout
        self._open_key = layout_words(layout.open_key)
        self._open_value = layout_words(layout.open_value)
        self._value_end = Marks((layout.closing_tag[0],))

    def read(self, reader: TextReader, log: CallEventLog, names: Collection[str], _index: int) -> Steps[CallOutcome]:
        yield from reader.skip_space()
        name = yield from reader.read_run(_NAME)
        # Any text may follow the name, but some must: the name itself could continue.
        if name not in names or not (yield from reader.peek()):
            return CallOutcome.BROKEN
        yield from self._skip(reader, self._after_name)
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
            key = (yield from reader.read_run(KEY)).strip()
            open_string = self._layout.open_string
            is_string = open_string is not None and (yield from reader.skip(open_string))
            if not key or (not is_string and not (yield from self._skip(reader, self._open_value))):
                return False
            value = yield from self._read_value(reader)
            if value is None:
                return False
            # If the tag marks strings, the schema is not needed to recognize them.
            schema = property_schema(schema_of(names, name), key) if open_string is None else True
            written = json_value(value, {"type": "string"} if is_string else schema)
            log.arguments(f"{comma}{json.dumps(key, ensure_ascii=False)}: {written}")
            comma = ", "

    def _read_value(self, reader: TextReader) -> Steps[str | None]:
        """Return the text between the tags, without the template's line breaks; None if the value broke off."""
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
        """Consume the expected words up to the first that is missing, and return whether none is."""
        for word in expected:
            yield from reader.skip_space()
            if not (yield from reader.skip(word)):
                return False
        return True
