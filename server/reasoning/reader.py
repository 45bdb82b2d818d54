"""ThoughtReader: splits the deltas of a model's text into reasoning and content."""

from typing import Protocol

from server.reasoning.harmony import HarmonyReader
from server.reasoning.marks import HARMONY, ReasoningMarks, partial_mark


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


def reasoning_reader(marks: ReasoningMarks, *, is_open: bool) -> ReasoningReader:
    """Return a reader for one choice. is_open: whether the prompt ends inside a thought."""
    return HarmonyReader(is_open=is_open) if marks == HARMONY else ThoughtReader(marks, is_open=is_open)


class ThoughtReader:
    """A ReasoningReader for text with at most one thought, between marks at its beginning.

        whitespace  start  whitespace   thought   whitespace  end  whitespace   content
        `------- both absent if is_open -------'

    The whitespace around the marks is dropped. A thought without an end mark is reasoning to the last character. A text
    that does not begin with the start mark is content, marks included, since an answer may mention them. If the prompt
    ended with the start mark and the model repeats the mark, the repetition is dropped.
    """

    def __init__(self, marks: ReasoningMarks, *, is_open: bool) -> None:
        self._marks = marks
        self._pending = ""
        self._is_thinking = is_open
        self._may_start = True  # only whitespace, and perhaps a part of the start mark, was read
        self._skips_space = is_open  # the last text read was a mark

    @property
    def is_thinking(self) -> bool:
        return self._is_thinking

    def push(self, text: str) -> tuple[str, str]:
        self._pending += text
        if self._may_start:
            self._read_start()
            if self._may_start:
                return "", ""
        reasoning = self._read_thought() if self._is_thinking else ""
        content = "" if self._is_thinking else self._read_all()
        return reasoning, content

    def finish(self) -> tuple[str, str]:
        rest = self._read_all()
        return (rest, "") if self._is_thinking else ("", rest)

    def check(self) -> None:
        """Assert that the pending text is whitespace followed by an incomplete mark."""
        mark = self._marks.start if self._may_start else self._marks.end
        rest = self._pending.lstrip()
        assert not self._pending or self._may_start or self._is_thinking
        assert mark.startswith(rest)
        assert rest != mark

    def _read_start(self) -> None:
        text = self._pending.lstrip()
        start = self._marks.start
        if text.startswith(start):
            self._pending = text[len(start) :]
            self._is_thinking = self._skips_space = True
            self._may_start = False
        else:
            self._may_start = start.startswith(text)

    def _read_thought(self) -> str:
        """Return the thought's text that can be sent, and end the thought at its end mark."""
        self._skip_space()
        thought, end, rest = self._pending.partition(self._marks.end)
        if end:
            self._pending = rest
            self._is_thinking = False
            self._skips_space = True
            return thought.rstrip()
        size = len(thought) - partial_mark(thought, [self._marks.end])
        sent = thought[:size].rstrip()
        self._pending = thought[len(sent) :]
        return sent

    def _read_all(self) -> str:
        self._skip_space()
        text, self._pending = self._pending, ""
        return text

    def _skip_space(self) -> None:
        if self._skips_space:
            self._pending = self._pending.lstrip()
            self._skips_space = not self._pending
