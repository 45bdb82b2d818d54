"""Grammars that constrain answers with tool calls, and the calls in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.arguments.schemas import object_schema, property_schema
from server.tools.format import Schema, Tool
from server.tools.layout import CallField, CallLayout

_BLANKS = r"[ \n]{0,2}"
_ANY_KEY = "[a-zA-Z_][a-zA-Z0-9_]*"
_INDEX = "[0-9]{1,3}"  # bounded, since a model may otherwise write digits until its last token


def answer_grammar(builder: GrammarBuilder, layout: CallLayout, body: str, *, min_calls: int, is_parallel: bool) -> str:
    """Return the grammar of an answer with at least `min_calls` (0 or 1) calls, and at most one unless is_parallel.

    body: the grammar of a call, after `layout.open`.
    """
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
    text = builder.text()
    if layout.answer_ends:
        text = builder.rule(text, *(f"{text} {builder.literal(end)}" for end in layout.answer_ends))
    return f"{builder.rule(section)}* {text}" if is_parallel else builder.rule(section, text)


def json_grammar(
    builder: GrammarBuilder, schema: Schema, *, item_separator: str = ", ", key_separator: str = ": "
) -> str:
    """Return the grammar of a JSON value with these separators, which override the schema's whitespace options."""
    if schema is False:
        return builder.json(False)
    given = schema if isinstance(schema, Mapping) else {}
    spelling = {"whitespace_flexible": False, "item_separator": item_separator, "key_separator": key_separator}
    return builder.json({**given, "x-guidance": {**given.get("x-guidance", {}), **spelling}})


def body_grammar(builder: GrammarBuilder, layout: CallLayout, tools: Sequence[Tool]) -> str:
    """Return the grammar of a call's body, for a call to any of the tools with arguments in JSON."""
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


def members_grammar(
    builder: GrammarBuilder,
    schema: Schema,
    assign: str,
    separator: str,
    value: Callable[[Schema], str],
    order: Callable[[Iterable[str]], Sequence[str]] = list,
) -> str:
    """Return a grammar of an object's members, each with its key, `assign` and its value.

    Properties of the schema come in the order that `order` gives them, and are optional unless required. A schema
    without properties takes any members.
    """
    schema = object_schema(schema)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(schema, Mapping) or not isinstance(properties, Mapping):
        any_member = f"{builder.regex(_ANY_KEY)} {builder.literal(assign)} {value(property_schema(schema, ''))}"
        more = builder.rule(f"{builder.literal(separator)} {any_member}")
        return builder.rule('""', f"{any_member} {more}*")
    required = schema.get("required", ())
    after_some = '""'  # the grammar of the text after a member
    after_none = '""'
    for key in reversed(order(properties)):
        member = f"{builder.literal(key + assign)} {value(property_schema(schema, key))}"
        first = f"{member} {after_some}"
        following = f"{builder.literal(separator)} {member} {after_some}"
        is_required = key in required
        after_none = builder.rule(first) if is_required else builder.rule(first, after_none)
        after_some = builder.rule(following) if is_required else builder.rule(following, after_some)
    return after_none


def _text_without_beginning(beginning: str) -> str:
    """Return a regular expression for all texts that do not begin with `beginning`."""
    pattern = ""
    for char in reversed(beginning):
        escaped = f"\\x{{{ord(char):x}}}"
        others = f"[^{escaped}](.|\\n)*"
        pattern = f"({others}|{escaped}{pattern})?" if pattern else f"({others})?"
    return pattern
