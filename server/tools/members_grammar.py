"""members_grammar: the grammar of a call's named arguments, or an object's members, that are not JSON."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.tagged_values import Schema, property_schema


def members_grammar(
    builder: GrammarBuilder,
    schema: Mapping[str, Any],
    keys: Sequence[str],
    assign: str,
    separator: str,
    value: Callable[[Schema], str],
) -> str:
    """Return a grammar of the properties `keys` in this order, without any that are not required. Each is written as
    key, `assign`, value."""
    required = schema.get("required", ())
    after_some = '""'  # the grammar of the text after a member
    after_none = '""'
    for key in reversed(keys):
        member = f"{builder.literal(key + assign)} {value(property_schema(schema, key))}"
        first = f"{member} {after_some}"
        following = f"{builder.literal(separator)} {member} {after_some}"
        is_required = key in required
        after_none = builder.rule(first) if is_required else builder.rule(first, after_none)
        after_some = builder.rule(following) if is_required else builder.rule(following, after_some)
    return after_none
