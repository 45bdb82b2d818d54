"""Harmony of gpt-oss: each message has a header with its channel, and the header of a call has the tool's name.

    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>     written by the model
     to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>                  written by its template
    <|channel|>final<|message|>the answer<|return|>

The answer starts after <|start|>assistant. Thoughts (channel analysis) are not part of it. <|call|> and <|return|>
end the generation.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool, ToolFormat, WrittenCall
from server.tools.grammars import json_grammar
from server.tools.layout import CallField, CallLayout
from server.tools.reading.json_reader import read_arguments
from server.tools.reading.parser import CallEventLog, ToolParser
from server.tools.reading.text_reader import Marks, Steps, TextReader

_RECIPIENT = re.compile(r"\bto=(\S+?)(?=<|\s|$)")
_HEADERS = ("<|start|>", "<|channel|>")
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_TEXT_END = Marks((*_HEADERS, *_ENDS))
_HEADER_END = Marks(("<|message|>", *_ENDS))
_WRITTEN_BY_TEMPLATE = CallLayout(
    begin="",
    open=" to=functions.",
    body=(CallField.NAME, "<|channel|>commentary json<|message|>", CallField.ARGUMENTS),
    after_text="",
    takes_several=False,
)
_WRITTEN_BY_MODEL = ("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>")


@dataclass(frozen=True, slots=True)
class HarmonyFormat(ToolFormat):
    """The Harmony format. An answer has at most one call, after which the model stops."""

    @property
    def marks(self) -> tuple[str, ...]:
        return ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")

    def parser(self, names: Collection[str]) -> ToolParser:
        return ToolParser(lambda reader, log: _read_answer(reader, log, names), after_text="")

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:  # noqa: ARG002
        def calls(before: str, after: str) -> str:
            return builder.rule(
                *(
                    f"{builder.literal(before + tool.name + after)} {json_grammar(builder, tool.parameters)}"
                    for tool in tools
                )
            )

        layout = _WRITTEN_BY_TEMPLATE
        by_template = calls(layout.open, "<|channel|>commentary json<|message|>")
        if min_calls:
            return by_template
        final = f"{builder.literal('<|channel|>final<|message|>')} {builder.text()}"
        preamble = builder.literal("<|channel|>commentary<|message|>")
        next_message = builder.literal("<|end|><|start|>assistant")
        message = builder.rule(final, by_template, calls(*_WRITTEN_BY_MODEL))
        return builder.rule(message, f"{preamble} {builder.text()} {next_message} {message}")

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return _WRITTEN_BY_TEMPLATE.write(calls[:1])


def _read_answer(reader: TextReader, log: CallEventLog, names: Collection[str]) -> Steps[None]:
    # The first mark of the header may be missing, since the prompt ends before it.
    reader.record()
    yield from reader.skip_space()
    if (yield from reader.sees("to=")):
        yield from _read_message(reader, log, names)
    else:
        log.text(reader.recorded())
    while True:
        mark = yield from reader.read_until(_TEXT_END, log.text)
        if mark is None:
            return
        reader.record()
        if mark in _HEADERS:
            yield from _read_message(reader, log, names)
        else:
            reader.take(len(mark))
            reader.stop_recording()


def _read_message(reader: TextReader, log: CallEventLog, names: Collection[str]) -> Steps[None]:
    """Read a message's header, and the arguments if it names a tool. A header without a recipient is dropped."""
    pieces: list[str] = []
    mark = yield from reader.read_until(_HEADER_END, pieces.append)
    if mark != "<|message|>":
        log.text(reader.recorded())
        return
    reader.take(len(mark))
    recipient = _RECIPIENT.search("".join(pieces))
    name = recipient.group(1).removeprefix("functions.") if recipient else None
    if name is None:
        reader.stop_recording()
        return
    if name not in names:
        log.text(reader.recorded())
        return
    reader.stop_recording()
    log.start(name)
    yield from reader.skip_space()
    if not (yield from reader.peek()) or (yield from reader.sees("<|call|>")):
        log.arguments("{}")
    else:
        yield from read_arguments(reader, log.arguments)
    log.end()


FORMAT = HarmonyFormat("openai", takes_several_calls=False)
