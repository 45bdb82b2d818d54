"""members_grammar: the named arguments of a call, or the members of an object, where they are no JSON."""

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
    """The schema's properties `keys` in this order, those that are not required perhaps; each as key, assign, value."""
    required = schema.get("required", ())
    after_some = '""'  # what may follow a member
    after_none = '""'
    for key in reversed(keys):
        member = f"{builder.literal(key + assign)} {value(property_schema(schema, key))}"
        first = f"{member} {after_some}"
        following = f"{builder.literal(separator)} {member} {after_some}"
        is_required = key in required
        after_none = builder.rule(first) if is_required else builder.rule(first, after_none)
        after_some = builder.rule(following) if is_required else builder.rule(following, after_some)
    return after_none
