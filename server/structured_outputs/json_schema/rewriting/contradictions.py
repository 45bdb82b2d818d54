"""Contradictions: keywords of a schema that together exclude all values of a kind."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.structured_outputs.json_schema.keywords import SIZE_KEYWORDS
from server.structured_outputs.json_schema.kinds import (
    ALL,
    ARRAY,
    FRACTION,
    NUMBERS,
    Kinds,
    identity,
    kinds_of_node,
)
from server.structured_outputs.json_schema.numbers import LOWER, MAX_SIZE, UPPER, empty_range, limits_of

_MAX_PARTS = 16  # parts of an allOf that are compared


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A contradiction between keywords, which excludes all values of `kinds`. keyword: one of the keywords."""

    keyword: str
    reason: str
    kinds: Kinds


def contradictions(node: Mapping[str, Any], kinds: Kinds) -> Iterator[Contradiction]:
    """Yield the contradictions between the schema's own keywords. kinds: the kinds that instances can have."""
    if "const" in node and "enum" in node and identity(node["const"]) not in map(identity, node["enum"]):
        yield Contradiction("const", "its value is not in the enum", ALL)
    elif not kinds_of_node(node) and node.get("type"):
        keyword = "const" if "const" in node else "enum"
        yield Contradiction(keyword, "it has no value of the given type", ALL)
    if kinds & NUMBERS and (limits := empty_range(node, is_integer=FRACTION not in kinds)) is not None:
        yield Contradiction(limits[1], f"no number is between {limits[0]} and {limits[1]}", NUMBERS)
    for kind, (least, most) in SIZE_KEYWORDS.items():
        if kind in kinds and least in node and most in node and node[least] > node[most]:
            yield Contradiction(most, f"{least} is greater than {most}", frozenset({kind}))
    if ARRAY in kinds and "contains" in node and node.get("minContains", 1) > node.get("maxContains", MAX_SIZE):
        reason = "it is less than minContains, which is 1 if not given"
        yield Contradiction("maxContains", reason, frozenset({ARRAY}))
    if "allOf" in node:
        yield from _part_contradictions(_parts(node), kinds)


def _part_contradictions(parts: list[Mapping[str, Any]], kinds: Kinds) -> Iterator[Contradiction]:
    """Yield contradictions between parts of an allOf: a lower limit in one and an upper limit in another."""
    for low, high in itertools.permutations(parts, 2):
        shared = kinds & kinds_of_node(low) & kinds_of_node(high)  # keywords of other kinds have no effect
        if shared & NUMBERS:
            limits = {keyword: value for keyword, value in limits_of(low).items() if keyword in LOWER}
            limits |= {keyword: value for keyword, value in limits_of(high).items() if keyword in UPPER}
            if (found := empty_range(limits, is_integer=FRACTION not in kinds)) is not None:
                yield Contradiction("allOf", f"no number is between {found[0]} and {found[1]} in it", NUMBERS)
        for kind, (least, most) in SIZE_KEYWORDS.items():
            if kind in shared and low.get(least, 0) > high.get(most, MAX_SIZE):
                yield Contradiction("allOf", f"{least} is greater than {most} in it", frozenset({kind}))


def _parts(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the schema and the parts of its allOf, nested ones included, without following references."""
    parts: list[Mapping[str, Any]] = []
    stack: list[Any] = [node]
    while stack and len(parts) < _MAX_PARTS:
        part = stack.pop()
        if isinstance(part, dict):
            parts.append(part)
            stack += part.get("allOf", ())
    return parts
