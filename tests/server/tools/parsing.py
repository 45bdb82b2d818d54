"""Parses whole answers, cut in pieces, and puts the events together again."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from server.tools.format import ToolFormat
from server.tools.reading.parser import AnswerText, CallArguments, CallEnd, CallStart, ToolEvent


def parse(tool_format: ToolFormat, text: str, names: Collection[str], cuts: Iterable[int] = ()) -> list[ToolEvent]:
    """The events, each run of pieces as one. cuts: where the text is cut."""
    parser = tool_format.parser(names)
    events: list[ToolEvent] = []
    start = 0
    for stop in [*sorted(cuts), len(text)]:
        events += parser.push(text[start:stop])
        start = stop
    return joined([*events, *parser.finish()])


def joined(events: Sequence[ToolEvent]) -> list[ToolEvent]:
    result: list[ToolEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, AnswerText) and isinstance(last, AnswerText):
            result[-1] = AnswerText(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            result[-1] = CallArguments(last.text + event.text)
        else:
            result.append(event)
    return result


def text_of(events: Sequence[ToolEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, AnswerText))


def calls_of(events: Sequence[ToolEvent]) -> list[tuple[str, Any]]:
    """Names and values of arguments; a call's events must stand together. Raises ValueError if one is no JSON."""
    calls = []
    for index, event in enumerate(events):
        if isinstance(event, CallStart):
            arguments, end = events[index + 1 : index + 3]
            assert isinstance(arguments, CallArguments)
            assert isinstance(end, CallEnd)
            calls.append((event.name, json.loads(arguments.text)))
    return calls
