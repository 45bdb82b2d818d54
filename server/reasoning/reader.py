"""ThoughtReader: splits the deltas of a model's text into reasoning and content."""

from typing import Protocol

from server.reasoning.harmony import AddressedReader, HarmonyReader
from server.reasoning.marks import HARMONY, MUSE, ReasoningMarks, partial_mark

_FENCE = "```"
_OF_MESSAGES = {HARMONY: HarmonyReader, MUSE: AddressedReader}


class ReasoningReader(Protocol):
    """A streaming parser of reasoning and content. Its joined output does not depend on the text's split into
    deltas."""

    @property
    def is_thinking(self) -> bool:
        """Whether the text so far ends within the thought."""

    def push(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content that can be sent now. Text that may be part of a mark is held back."""

    def finish(self) -> tuple[str, str]:
        """Return the pending text as reasoning and content. Nothing may be pushed after this call."""


def reasoning_reader(marks: ReasoningMarks, *, is_open: bool, has_one: bool = False) -> ReasoningReader:
    """Return a reader for one choice. is_open: whether the prompt ends inside a thought. has_one: whether a grammar
    allows no thought after the first."""
    if marks in _OF_MESSAGES:
        return _OF_MESSAGES[marks](is_open=is_open)
    reader = ThoughtReader(marks, is_open=is_open, has_one=has_one)
    return AnswerEndReader(reader, marks.answer_ends) if marks.answer_ends else reader


class AnswerEndReader:
    """A ReasoningReader that drops the marks at the end of the answer, with the white space before them, from the
    content of another reader."""

    def __init__(self, reader: ReasoningReader, ends: tuple[str, ...]) -> None:
        self._reader = reader
        self._ends = ends
        self._pending = ""

    @property
    def is_thinking(self) -> bool:
        return self._reader.is_thinking

    def push(self, text: str) -> tuple[str, str]:
        reasoning, content = self._reader.push(text)
        return reasoning, self._without_ends(content)

    def finish(self) -> tuple[str, str]:
        reasoning, content = self._reader.finish()
        content = self._without_ends(content)
        rest = self._pending
        for end in self._ends:
            rest = rest.replace(end, "")
        return reasoning, content + (rest if rest == self._pending else rest.strip())

    def _without_ends(self, content: str) -> str:
        """Return the content that can be sent: all but the marks, white space and part of a mark at its end."""
        text = self._pending + content
        stop = len(text) - partial_mark(text, self._ends)
        while True:
            before = text[:stop].rstrip()
            for end in self._ends:
                before = before.removesuffix(end)
            if len(before) == stop:
                break
            stop = len(before)
        self._pending = text[stop:]
        return text[:stop]


class ThoughtReader:
    """A ReasoningReader for text with thoughts between marks.

        whitespace  start  whitespace   thought   whitespace  end  whitespace   content
        `------- both absent if is_open -------'

    The whitespace around the marks of the first thought is dropped. A thought without an end mark is reasoning to the
    last character. If the prompt ended with the start mark and the model repeats the mark, the repetition is dropped.

    A later thought begins with a start mark at the start of a line, or right after another thought. Within a line or a
    fenced block of code, a mark is content, since an answer may mention marks. Thoughts are joined by line breaks.
    """

    def __init__(self, marks: ReasoningMarks, *, is_open: bool, has_one: bool = False) -> None:
        self._marks = marks
        self._has_one = has_one
        self._pending = ""
        self._is_thinking = is_open
        self._may_start = True  # only whitespace, and perhaps a part of the start mark, was read
        self._skips_space = is_open  # the last text read was a mark
        self._is_line_start = True  # the content so far ends at the start of a line, or within its indentation
        self._is_fenced = False  # the content so far ends within a fenced block of code
        self._has_thoughts = False  # reasoning was sent
        self._is_new = True  # no reasoning of this thought was sent

    @property
    def is_thinking(self) -> bool:
        return self._is_thinking

    def push(self, text: str) -> tuple[str, str]:
        self._pending += text
        if self._may_start:
            self._read_start()
            if self._may_start:
                return "", ""
        reasoning: list[str] = []
        content: list[str] = []
        while True:
            was_thinking = self._is_thinking
            if was_thinking:
                reasoning.append(self._apart(self._read_thought()))
            else:
                content.append(self._read_all() if self._has_one else self._read_content())
            if self._is_thinking is was_thinking:
                return "".join(reasoning), "".join(content)

    def finish(self) -> tuple[str, str]:
        rest = self._read_all()
        return (self._apart(rest), "") if self._is_thinking else ("", rest)

    def check(self) -> None:
        """Assert that the pending text is whitespace followed by an incomplete mark."""
        rest = self._pending.lstrip()
        if self._is_thinking:
            marks = (self._marks.end, self._marks.start) if self._may_start else (self._marks.end,)
        else:
            marks = (self._marks.start, _FENCE)
        assert any(mark.startswith(rest) for mark in marks)
        assert rest not in marks

    def _read_start(self) -> None:
        text = self._pending.lstrip()
        start = self._marks.start
        if text.startswith(start):
            self._begin_thought(text[len(start) :])
            self._may_start = False
        else:
            self._may_start = start.startswith(text)

    def _begin_thought(self, rest: str) -> None:
        self._pending = rest
        self._is_thinking = self._skips_space = self._is_new = True

    def _read_thought(self) -> str:
        """Return the thought's text that can be sent, and end the thought at its end mark."""
        self._skip_space()
        thought, end, rest = self._pending.partition(self._marks.end)
        if end:
            self._pending = rest
            self._is_thinking = False
            self._skips_space = self._is_line_start = True
            return thought.rstrip()
        size = len(thought) - partial_mark(thought, [self._marks.end])
        sent = thought[:size].rstrip()
        self._pending = thought[len(sent) :]
        return sent

    def _read_content(self) -> str:
        """Return the content that can be sent, and begin a thought at a start mark."""
        self._skip_space()
        sent: list[str] = []
        while self._pending:
            if self._is_line_start:
                line = self._pending.lstrip(" \t")
                sent.append(self._pending[: len(self._pending) - len(line)])
                self._pending = line
                if not self._is_fenced and line.startswith(self._marks.start):
                    self._begin_thought(line[len(self._marks.start) :])
                    break
                if partial_mark(line, [self._marks.start, _FENCE]) == len(line):
                    break  # until more of the line has come
                self._is_fenced ^= line.startswith(_FENCE)
            line, end, self._pending = self._pending.partition("\n")
            sent.append(line + end)
            self._is_line_start = bool(end)
        return "".join(sent)

    def _read_all(self) -> str:
        self._skip_space()
        text, self._pending = self._pending, ""
        return text

    def _skip_space(self) -> None:
        if self._skips_space:
            self._pending = self._pending.lstrip()
            self._skips_space = not self._pending

    def _apart(self, thought: str) -> str:
        """Return the text of a thought, after a line break if it is the first of a later thought."""
        if not thought or not self._is_new:
            return thought
        separator = "\n" if self._has_thoughts else ""
        self._has_thoughts, self._is_new = True, False
        return separator + thought
