"""Grammars of whole answers with calls, and of the bodies of calls."""

from collections.abc import Mapping, Sequence

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool
from server.tools.layout import CallField, CallLayout
from server.tools.tagged_values import Schema

_BLANKS = r"[ \n]{0,2}"
_INDEX = "[0-9]{1,3}"  # bounded, since a model may otherwise write digits until its last token


def answer_grammar(builder: GrammarBuilder, layout: CallLayout, body: str, *, min_calls: int, is_parallel: bool) -> str:
    """Return the grammar of an answer; see ToolFormat.grammar. body: the grammar of the text after the layout's open
    in each call."""
    is_parallel = is_parallel and layout.takes_several
    rest = builder.literal(layout.end) if layout.end else ""
    if is_parallel:
        rest = " ".join([builder.rule(f"{builder.literal(layout.separator + layout.open)} {body}") + "*", rest])

    def calls(opening: str) -> str:
        return " ".join(filter(None, [builder.literal(opening) if opening else "", body, rest]))

    if min_calls:
        only_calls = calls(layout.lead + layout.opening)
        # A model that always writes the separator must be free to end after it, else each call leads to another one.
        return f"{only_calls} {builder.regex(_BLANKS)}" if is_parallel and not layout.end else only_calls
    trigger = layout.trigger
    if trigger is None:
        return builder.rule(calls(layout.opening), builder.regex(_text_without_beginning(layout.opening)))
    section = f"{builder.text_until(trigger)} {calls(layout.opening.lstrip().removeprefix(trigger))}"
    if is_parallel:
        return f"{builder.rule(section)}* {builder.text()}"
    return builder.rule(section, builder.text())


def json_grammar(
    builder: GrammarBuilder, schema: Schema, *, item_separator: str = ", ", key_separator: str = ": "
) -> str:
    """Return the grammar of a JSON value with the separators of the template, whatever spaces the schema asks for."""
    if schema is False:
        return builder.json(False)
    given = schema if isinstance(schema, Mapping) else {}
    spelling = {"whitespace_flexible": False, "item_separator": item_separator, "key_separator": key_separator}
    return builder.json({**given, "x-guidance": {**given.get("x-guidance", {}), **spelling}})


def body_grammar(builder: GrammarBuilder, layout: CallLayout, tools: Sequence[Tool]) -> str:
    """Return the grammar of the body of a call of one of the tools, with arguments in JSON."""
    return builder.rule(*(_body_of(builder, layout, tool) for tool in tools))


def _body_of(builder: GrammarBuilder, layout: CallLayout, tool: Tool) -> str:
    pieces: list[str] = []
    literal = ""
    for part in layout.body:
        if isinstance(part, str) or part is CallField.NAME:
            literal += tool.name if part is CallField.NAME else part
            continue
        if literal:
            pieces.append(builder.literal(literal))
            literal = ""
        if part is CallField.ARGUMENTS:
            separators = {"item_separator": layout.item_separator, "key_separator": layout.key_separator}
            pieces.append(json_grammar(builder, tool.parameters, **separators))
        else:
            pieces.append(builder.regex(_INDEX if part is CallField.INDEX else layout.id_pattern))
    return " ".join([*pieces, builder.literal(literal)] if literal else pieces)


def _text_without_beginning(beginning: str) -> str:
    """Return a regular expression for all texts that do not begin with `beginning`."""
    pattern = ""
    for char in reversed(beginning):
        escaped = f"\\x{{{ord(char):x}}}"
        others = f"[^{escaped}](.|\\n)*"
        pattern = f"({others}|{escaped}{pattern})?" if pattern else f"({others})?"
    return pattern
