"""AnswerReader: reads a whole answer, text and calls, with a CallReader for each call."""

from collections.abc import Collection, Mapping

from server.tools.call_reader import CallReader, Outcome
from server.tools.event_log import EventLog
from server.tools.fitting import json_fits
from server.tools.format import CallArguments, CallEnd, CallStart
from server.tools.json_scanner import json_of
from server.tools.layout import words
from server.tools.placeholders import has_placeholder
from server.tools.reader import Marks, Reader, Steps
from server.tools.step_parser import StepParser

_MOST_STRAY = 16_384  # characters of a call without marks
_MOST_SPACED = 100  # characters in which a call begins, spaces included
# What models put around calls instead of their own marks, Qwen2.5-Coder above all; and what ends it.
_STRAY_MARKS = {"```json": "```", "<tools>": "</tools>", "<function_call>": "</function_call>"}


class AnswerReader:
    """Immutable, and shared by all answers of a format.

    A call that breaks off is text, up to where it did; from there on it is looked for the next one.
    """

    def __init__(
        self,
        calls: CallReader,
        *,
        begin: str,
        separator: str,
        end: str,
        other_triggers: tuple[str, ...] = (),
        stray: str | None = None,
    ) -> None:
        """begin and end surround all calls. other_triggers: marks that also begin calls, instead of `begin`.

        stray: the first characters of a call, by which one without its marks is known; None: there are no such calls.
        """
        self._calls = calls
        self._stray = stray
        self._open = calls.opening
        self._separator = words(separator) or (";", ",")
        self._end = words(end)
        opening = (*words(begin), *self._open)
        # What has to follow a mark, by the mark.
        self._after = {mark: opening[(opening.index(mark) if mark in opening else 0) + 1 :] for mark in other_triggers}
        for trigger, rest in ((self._open[:1], self._open[1:]), (opening[:1], opening[1:])):
            if trigger and len(trigger[0]) > 1:
                self._after[trigger[0]] = rest
        self._is_markless = not opening or len(opening[0]) == 1
        self._opening = opening
        marks = (*self._after, *(_STRAY_MARKS if stray is not None else ()))
        self._marks = Marks(marks) if marks else None

    def read(self, reader: Reader, log: EventLog, names: Collection[str]) -> Steps[None]:
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
        self, reader: Reader, log: EventLog, names: Collection[str], end: str, index: int
    ) -> Steps[int]:
        """As `_read_calls`, for calls without marks of their own, which `end` may follow.

        Nothing but their JSON says that they are calls, and no grammar held them to their schema; so they have to be
        whole, and fit it. One with placeholders is an example, which nobody could execute.
        """
        has_calls = False
        while (yield from self._sees_stray(reader)) and (whole := (yield from _seen_object(reader))):
            if not self._is_fitting_call(whole, names):
                reader.take(len(whole))
                break
            outcome = yield from self._calls.read(reader, log, names, index)
            if outcome is Outcome.BROKEN_CALL:
                return index + 1
            if outcome is not Outcome.CALL:
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
        """Whether the text is one call of a tool, with arguments as its schema wants them, all of them known."""

        def read(reader: Reader, log: EventLog) -> Steps[None]:
            yield from self._calls.read(reader, log, names, 0)

        parser = StepParser(read, after_text=None)
        events = [*parser.push(text), *parser.finish()]
        match events:
            case [CallStart(name=name), CallArguments(text=arguments), CallEnd()]:
                schema = names[name] if isinstance(names, Mapping) else True
                return json_fits(arguments, schema) and not has_placeholder(arguments)
        return False

    def _sees_stray(self, reader: Reader) -> Steps[bool]:
        """Whether a call's first characters follow, with any space between them; nothing is consumed."""
        assert self._stray is not None
        while True:
            yield from reader.skip_space()
            seen = "".join(reader.unread[:_MOST_SPACED].split())
            if seen.startswith(self._stray):
                return True
            if reader.has_ended or not self._stray.startswith(seen):
                return False
            yield

    def _read_calls(
        self, reader: Reader, log: EventLog, names: Collection[str], opening: tuple[str, ...], index: int
    ) -> Steps[int]:
        """Reads calls from behind their mark, and returns the next index. What is recorded and no call becomes text."""
        may_read = yield from self._skip_words(reader, opening)
        while may_read:
            outcome = yield from self._calls.read(reader, log, names, index)
            if outcome is Outcome.BROKEN_CALL:
                if reader.has_ended:
                    # It waited for the rest of a tag.
                    reader.take_all()
                return index + 1
            if outcome is Outcome.BROKEN:
                break
            index += outcome is Outcome.CALL
            if outcome is Outcome.CALL:
                reader.record()
            may_read = yield from self._skip_to_next_call(reader, is_text=outcome is Outcome.TEXT)
            if outcome is Outcome.TEXT:
                log.text(reader.recorded())
                reader.record()
        log.text(reader.recorded())
        if index:
            self._drop_cut_off_word(reader)
        return index

    def _drop_cut_off_word(self, reader: Reader) -> None:
        """An answer that ends within the tag behind a call has no text there."""
        if reader.has_ended and any(word.startswith(reader.unread) for word in (*self._calls.closing, *self._end)):
            reader.take_all()

    def _skip_to_next_call(self, reader: Reader, *, is_text: bool) -> Steps[bool]:
        """Consumes what surrounds calls, as far as it is there; what is not of it stays recorded.

        is_text: the call was text, and so is what follows it.
        """
        yield from self._skip_present(reader, self._calls.closing)
        if not is_text:
            reader.record()
        yield from reader.skip_space()
        has_separator = yield from self._skip_present(reader, self._separator)
        yield from reader.skip_space()
        if self._open:
            if (yield from reader.sees(self._open[0])):
                return (yield from self._skip_words(reader, self._open))
        elif has_separator:
            return True
        if (yield from self._skip_present(reader, self._end)) and not is_text:
            reader.record()
        return False

    def _skip_words(self, reader: Reader, required: tuple[str, ...]) -> Steps[bool]:
        for word in required:
            yield from reader.skip_space()
            # Models leave out the bracket of a list of one; where there is no mark before it, it is the mark.
            if not (yield from reader.skip(word)) and (word != "[" or self._is_markless):
                return False
        yield from reader.skip_space()
        return True

    def _skip_present(self, reader: Reader, optional: tuple[str, ...]) -> Steps[bool]:
        """Consumes those of the words that follow; returns whether there were any."""
        found = False
        for word in optional:
            yield from reader.skip_space()
            found |= yield from reader.skip(word)
        return found


def _seen_object(reader: Reader) -> Steps[str]:
    """The object that begins here, if it is whole and can be read as JSON, else ""; nothing is consumed."""
    scanned, depth, is_string, is_escaped = 0, 0, False, False
    while scanned < _MOST_STRAY:
        text = reader.unread[:_MOST_STRAY]
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
