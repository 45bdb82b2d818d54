"""AnswerReader: parses whole answers, of text and tool calls, with a CallReader for each call."""

from collections.abc import Collection, Mapping

from server.tools.layout import CallLayout, layout_words
from server.tools.reading.argument_checks import has_placeholder, json_fits
from server.tools.reading.call_reader import CallOutcome, CallReader
from server.tools.reading.json_reader import json_of
from server.tools.reading.parser import CallArguments, CallEnd, CallEventLog, CallStart, ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader

_MAX_STRAY_CHARS = 16_384  # of a call without marks
_MAX_STRAY_START_CHARS = 100  # within which a call without marks must be recognized, spaces included
# Texts that models, most of all Qwen2.5-Coder, write around calls instead of their own marks: start and end
_STRAY_MARKS = {"```json": "```", "<tools>": "</tools>", "<function_call>": "</function_call>"}


class AnswerReader:
    """The incremental parser of a format's answers, immutable and shared by all requests.

    A malformed call counts as text up to the position of its fault, where the search for calls continues.
    """

    def __init__(
        self,
        calls: CallReader,
        layout: CallLayout,
        other_triggers: tuple[str, ...] = (),
        stray: str | None = None,
    ) -> None:
        """other_triggers: marks that start calls instead of the layout's `begin`.

        stray: the first characters by which a call without marks is recognized; None if every call needs a mark.
        """
        self._calls = calls
        self._stray = stray
        self._open = calls.opening
        self._separator = layout_words(layout.separator) or (";", ",")
        self._end = layout_words(layout.end)
        # Beginning of another call, by which it differs from the end
        self._next = "".join(self._open[: 2 if self._open[:1] == self._end[:1] else 1])
        opening = (*layout_words(layout.begin), *self._open)
        # Words that must follow a mark, by the mark
        self._after = {mark: opening[(opening.index(mark) if mark in opening else 0) + 1 :] for mark in other_triggers}
        for trigger, rest in ((self._open[:1], self._open[1:]), (opening[:1], opening[1:])):
            if trigger and len(trigger[0]) > 1:
                self._after[trigger[0]] = rest
        # Only white space separates calls that no mark opens; the mark after the last one ends them.
        self._is_spaced = not self._open and bool(self._end) and not layout_words(layout.separator)
        self._is_markless = not opening or len(opening[0]) == 1
        self._opening = opening
        marks = (*self._after, *(_STRAY_MARKS if stray is not None else ()))
        self._marks = Marks(marks) if marks else None

    def parser(self, names: Collection[str], *, after_text: str | None) -> ToolParser:
        """Return a parser for one answer.

        names: names of the request's tools, or a mapping of them to their schemas; calls of other tools stay text.
        after_text: white space that the template writes between text and a call; None if it drops such text.
        """
        return ToolParser(lambda reader, log: self._read(reader, log, names), after_text=after_text)

    def _read(self, reader: TextReader, log: CallEventLog, names: Collection[str]) -> Steps[None]:
        index = 0
        if self._is_markless:
            reader.record()
            yield from reader.skip_space()
            index = yield from self._read_calls(reader, log, names, self._opening, index)
        elif self._stray is not None:
            reader.record()
            yield from reader.skip_space()
            index = yield from self._read_stray_calls(reader, log, names, "", index)
        while (mark := (yield from reader.read_until(self._marks, log.text))) is not None:
            reader.record()
            reader.take(len(mark))
            if mark in self._after:
                index = yield from self._read_calls(reader, log, names, self._after[mark], index)
            else:
                index = yield from self._read_stray_calls(reader, log, names, _STRAY_MARKS[mark], index)

    def _read_stray_calls(
        self, reader: TextReader, log: CallEventLog, names: Collection[str], end: str, index: int
    ) -> Steps[int]:
        """Read calls without the format's marks, and the mark `end` if it follows; return the next call's index.

        Only their JSON shows that they are calls, and no grammar enforced their schema. Therefore they must be whole
        and fit the schema. A call with placeholders is an example, which no client could execute.
        """
        has_calls = False
        while (yield from self._sees_stray(reader)) and (whole := (yield from _seen_object(reader))):
            if not self._is_fitting_call(whole, names):
                reader.take(len(whole))
                break
            outcome = yield from self._calls.read(reader, log, names, index)
            if outcome is CallOutcome.BROKEN_CALL:
                return index + 1
            if outcome is not CallOutcome.CALL:
                break
            has_calls = True
            index += 1
            reader.record()
            yield from reader.skip_space()
            yield from reader.skip(",")
            yield from reader.skip_space()
        if has_calls and end and (yield from reader.skip(end)):
            reader.record()
        log.text(reader.recorded())
        return index

    def _is_fitting_call(self, text: str, names: Collection[str]) -> bool:
        """Whether the text is one call of a tool, with arguments that fit its schema and have no placeholders."""
        parser = ToolParser(lambda reader, log: self._calls.read(reader, log, names, 0), after_text=None)
        events = [*parser.push(text), *parser.finish()]
        match events:
            case [CallStart(name=name), CallArguments(text=arguments), CallEnd()]:
                schema = names[name] if isinstance(names, Mapping) else True
                return json_fits(arguments, schema) and not has_placeholder(arguments)
        return False

    def _sees_stray(self, reader: TextReader) -> Steps[bool]:
        """Return whether the first characters of a call without marks follow. Only leading space is consumed."""
        assert self._stray is not None
        while True:
            yield from reader.skip_space()
            seen = "".join(reader.unread[:_MAX_STRAY_START_CHARS].split())
            if seen.startswith(self._stray):
                return True
            if reader.has_ended or not self._stray.startswith(seen):
                return False
            yield

    def _read_calls(
        self, reader: TextReader, log: CallEventLog, names: Collection[str], opening: tuple[str, ...], index: int
    ) -> Steps[int]:
        """Read the calls after their mark; return the next call's index. Anything that is not a call becomes text."""
        may_read = yield from self._skip_words(reader, opening)
        while may_read:
            outcome = yield from self._calls.read(reader, log, names, index)
            if outcome is CallOutcome.BROKEN_CALL:
                if reader.has_ended:
                    # The call waited for the rest of a tag.
                    reader.take_all()
                return index + 1
            if outcome is CallOutcome.BROKEN:
                break
            index += outcome is CallOutcome.CALL
            if outcome is CallOutcome.CALL:
                reader.record()
            may_read = yield from self._skip_to_next_call(reader, is_text=outcome is CallOutcome.TEXT)
            if outcome is CallOutcome.TEXT:
                log.text(reader.recorded())
                reader.record()
        log.text(reader.recorded())
        if index:
            self._drop_cut_off_word(reader)
        return index

    def _drop_cut_off_word(self, reader: TextReader) -> None:
        """Drop the beginning of a tag that the answer's end cut off, after a tool call."""
        if reader.has_ended and any(word.startswith(reader.unread) for word in (*self._calls.closing, *self._end)):
            reader.take_all()

    def _skip_to_next_call(self, reader: TextReader, *, is_text: bool) -> Steps[bool]:
        """Consume the closing words and the separator after a call; return whether another call follows.

        is_text: the call counted as text, so the consumed words stay recorded, to become text too.
        """
        yield from self._skip_present(reader, self._calls.closing)
        if not is_text:
            reader.record()
        yield from reader.skip_space()
        has_separator = yield from self._skip_present(reader, self._separator)
        yield from reader.skip_space()
        if self._open:
            if (yield from reader.sees(self._next)):
                return (yield from self._skip_words(reader, self._open))
        elif has_separator or (self._is_spaced and not (yield from self._sees_end(reader))):
            return True
        if (yield from self._skip_present(reader, self._end)) and not is_text:
            reader.record()
        return False

    def _sees_end(self, reader: TextReader) -> Steps[bool]:
        return not (yield from reader.peek()) or (yield from reader.sees(self._end[0]))

    def _skip_words(self, reader: TextReader, required: tuple[str, ...]) -> Steps[bool]:
        for word in required:
            yield from reader.skip_space()
            # Models leave out the bracket of a list with one item. If no mark precedes it, the bracket is the mark.
            if not (yield from reader.skip(word)) and (word != "[" or self._is_markless):
                return False
        yield from reader.skip_space()
        return True

    def _skip_present(self, reader: TextReader, optional: tuple[str, ...]) -> Steps[bool]:
        """Consume the optional words that follow, in order; return whether any was there."""
        found = False
        for word in optional:
            yield from reader.skip_space()
            found |= yield from reader.skip(word)
        return found


def _seen_object(reader: TextReader) -> Steps[str]:
    """Return the JSON object that starts here, else "". Waits for its end; nothing is consumed."""
    scanned, depth, is_string, is_escaped = 0, 0, False, False
    while scanned < _MAX_STRAY_CHARS:
        text = reader.unread[:_MAX_STRAY_CHARS]
        for index in range(scanned, len(text)):
            char = text[index]
            if is_string:
                is_string = is_escaped or char != '"'
                is_escaped = char == "\\" and not is_escaped
            elif char == '"':
                is_string = True
            elif char in "{}":
                depth += 1 if char == "{" else -1
                if depth == 0:
                    return text[: index + 1] if json_of(text[: index + 1]) is not None else ""
        scanned = len(text)
        if reader.has_ended:
            break
        yield
    return ""
