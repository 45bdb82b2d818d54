"""Contradictions: keywords of one schema that leave no value of a kind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.structured_outputs.kinds import (
    ALL,
    ARRAY,
    FRACTION,
    NUMBERS,
    OBJECT,
    STRING,
    Kinds,
    identity,
    kinds_of_node,
)
from server.structured_outputs.numbers import MAX_SIZE, empty_range

_SIZES = (
    (STRING, "minLength", "maxLength"),
    (ARRAY, "minItems", "maxItems"),
    (OBJECT, "minProperties", "maxProperties"),
)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """kinds: of which there is no value. keyword: one that is to blame."""

    keyword: str
    reason: str
    kinds: Kinds


def contradictions(node: Mapping[str, Any], kinds: Kinds) -> Iterator[Contradiction]:
    """Those of the node's own keywords. kinds: of the instances that can come here."""
    if "const" in node and "enum" in node and identity(node["const"]) not in map(identity, node["enum"]):
        yield Contradiction("const", "its value is not in the enum beside it", ALL)
    elif not kinds_of_node(node) and node.get("type"):
        keyword = "const" if "const" in node else "enum"
        yield Contradiction(keyword, "it has no value of the type beside it", ALL)
    if kinds & NUMBERS and (limits := empty_range(node, is_integer=FRACTION not in kinds)) is not None:
        yield Contradiction(limits[1], f"no number is between {limits[0]} and {limits[1]}", NUMBERS)
    for kind, least, most in _SIZES:
        if kind in kinds and least in node and most in node and node[least] > node[most]:
            yield Contradiction(most, f"{least} is greater than {most}", frozenset({kind}))
    if ARRAY in kinds and "contains" in node and node.get("minContains", 1) > node.get("maxContains", MAX_SIZE):
        reason = "it is less than minContains, which is 1 if not given"
        yield Contradiction("maxContains", reason, frozenset({ARRAY}))
