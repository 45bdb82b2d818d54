"""Thoughts of reasoning models: the marks around them, and the position where the answer begins."""

import bisect
from collections.abc import Callable, Sequence

import msgspec


class ThoughtMarks(msgspec.Struct, frozen=True):
    """The texts that a model writes before and after its thought."""

    start: str
    end: str


def answer_start(
    ids: Sequence[int], marks: ThoughtMarks, decode: Callable[[Sequence[int]], str], *, prompt: str
) -> int:
    """Return how many of the first ids are a thought and its marks: 0 without a thought, all if it does not end.

    decode: must keep special tokens, which marks often are. prompt: its end may open the thought.
    """
    text = decode(ids)
    is_open = prompt.rstrip().endswith(marks.start)
    if not is_open and not text.lstrip().startswith(marks.start):
        return 0
    if marks.end not in text:
        return len(ids)
    return bisect.bisect_left(range(len(ids)), True, key=lambda count: marks.end in decode(ids[:count]))
