"""Disjointness: proves that no instance matches both of two schemas."""

from collections.abc import Callable, Iterator
from typing import Any

from server.structured_outputs.json_schema.keywords import SIZE_KEYWORDS
from server.structured_outputs.json_schema.kinds import (
    ALL,
    ARRAY,
    BOOLEAN,
    NUMBERS,
    OBJECT,
    STRING,
    Kinds,
    identity,
    kind_of,
    kinds_of_node,
)
from server.structured_outputs.json_schema.rewriting.writer import Node
from server.structured_outputs.languages.patterns import texts_of

_MAX_DEPTH = 6  # nested properties and alternatives that a proof considers
_MAX_PARTS = 32  # conjuncts of one schema
_MAX_WORK = 20_000  # schemas considered for one document


class Disjointness:
    """Proves that schemas are disjoint. Schemas without a proof may be disjoint nevertheless."""

    def __init__(self, resolve: Callable[[str], Any]) -> None:
        """resolve: returns the schema that a `$ref` refers to."""
        self._resolve = resolve
        self._work_left = _MAX_WORK

    def holds(self, first: Any, second: Any, kinds: Kinds = ALL) -> bool:
        """Whether it can be proved that no instance of these kinds matches both schemas."""
        return self._holds(first, second, kinds, _MAX_DEPTH)

    def all_hold(self, schemas: list[Any], kinds: Kinds = ALL) -> bool:
        """Whether the schemas are objects with a required property whose possible values differ between all of them.

        This proves that all pairs are disjoint, in time that is linear in the number of schemas.
        """
        listed = [self._parts(schema) for schema in schemas]
        if any(parts is None or _kinds_of(parts, kinds) - {OBJECT} for parts in listed):
            return False
        objects = [parts for parts in listed if parts is not None]
        names = {name: None for part in objects[0] for name in part.get("required", ())}
        return any(self._distinguishes(name, objects) for name in names)

    def _distinguishes(self, name: str, objects: list[list[Node]]) -> bool:
        seen: set[Any] = set()
        for parts in objects:
            of_value = self._parts({"allOf": list(_of_property(parts, name))})
            if of_value is None or not any(name in part.get("required", ()) for part in parts):
                return False
            for kind in _kinds_of(of_value, ALL):
                literals = _literals(of_value, kind)
                if literals is None or literals.keys() & seen:
                    return False
                seen |= literals.keys()
        return True

    def _holds(self, first: Any, second: Any, kinds: Kinds, depth: int) -> bool:
        self._work_left -= 1
        if depth == 0 or self._work_left < 0:
            return False
        left, right = self._parts(first), self._parts(second)
        if left is None or right is None:
            return True
        shared = _kinds_of([*left, *right], kinds)
        if all(self._differ(kind, left, right, depth) for kind in shared):
            return True
        return self._excludes(left, second, shared, depth) or self._excludes(right, first, shared, depth)

    def _parts(self, node: Any) -> list[Node] | None:
        """Return the schemas that an instance of `node` must all match; None if no instance matches them."""
        parts: list[Node] = []
        stack = [node]
        while stack and len(parts) < _MAX_PARTS:
            node = stack.pop()
            if node is False:
                return None
            if isinstance(node, dict) and all(node is not part for part in parts):
                parts.append(node)
                stack += node.get("allOf", ())
                if isinstance(node.get("$ref"), str):
                    stack.append(self._resolve(node["$ref"]))
        return parts

    def _excludes(self, parts: list[Node], other: Any, kinds: Kinds, depth: int) -> bool:
        """Whether a part has an anyOf or oneOf whose alternatives are all disjoint from `other`."""
        return any(
            all(self._holds({"allOf": [branch]}, other, kinds, depth - 1) for branch in part[keyword])
            for part in parts
            for keyword in ("anyOf", "oneOf")
            if isinstance(part.get(keyword), list) and part[keyword]
        )

    def _differ(self, kind: str, left: list[Node], right: list[Node], depth: int) -> bool:
        """Whether it can be proved that no instance of this kind matches all schemas in `left` and `right`."""
        if kind == OBJECT and self._properties_differ(left, right, depth):
            return True
        here, there = _literals(left, kind), _literals(right, kind)
        if here is not None and there is not None:
            return not here.keys() & there.keys()
        if here is not None:
            return all(_breaks_limit(value, kind, right) for value in here.values())
        if there is not None:
            return all(_breaks_limit(value, kind, left) for value in there.values())
        if kind == BOOLEAN:
            return False
        low, high = _limits(left, kind), _limits(right, kind)
        return _is_below(low, high) or _is_below(high, low)

    def _properties_differ(self, left: list[Node], right: list[Node], depth: int) -> bool:
        """Whether a property that `left` or `right` requires has no value that matches its schemas in both."""
        names = {name: None for part in (*left, *right) for name in part.get("required", ()) if isinstance(name, str)}
        return any(
            self._holds(
                {"allOf": list(_of_property(left, name))}, {"allOf": list(_of_property(right, name))}, ALL, depth - 1
            )
            for name in names
        )


def _kinds_of(parts: list[Node], kinds: Kinds) -> Kinds:
    """Return the kinds that an instance can have if it matches all parts."""
    for part in parts:
        kinds &= kinds_of_node(part)
    return kinds


def _of_property(parts: list[Node], name: str) -> Iterator[Any]:
    """Yield the schemas that the property's value must match."""
    for part in parts:
        properties = part.get("properties", {})
        if name in properties:
            yield properties[name]
        matched = {pattern: texts_of(pattern) for pattern in part.get("patternProperties", {})}
        yield from (part["patternProperties"][pattern] for pattern, texts in matched.items() if name in (texts or ()))
        if name not in properties and all(texts is not None and name not in texts for texts in matched.values()):
            yield part.get("additionalProperties", True)


def _literals(parts: list[Node], kind: str) -> dict[Any, Any] | None:
    """Return the values of this kind that `enum` and `const` allow, keyed by `identity`; None without either."""
    left: dict[Any, Any] | None = None
    for part in parts:
        for values in ([part["const"]] if "const" in part else None, part.get("enum")):
            if values is not None:
                listed = {identity(value): value for value in values if kind_of(value) == kind}
                left = listed if left is None else {key: left[key] for key in left.keys() & listed.keys()}
    return left


def _breaks_limit(value: Any, kind: str, parts: list[Node]) -> bool:
    """Whether the number, or the length or item count of the value, is outside the parts' limits."""
    size = value if kind in NUMBERS else len(value) if kind in (STRING, ARRAY, OBJECT) else None
    if size is None:
        return False
    interval = ((size, False), (size, False))
    limits = _limits(parts, kind)
    return _is_below(interval, limits) or _is_below(limits, interval)


Bound = tuple[float, bool]  # a limit, and whether it is exclusive


def _limits(parts: list[Node], kind: str) -> tuple[Bound, Bound]:
    """Return the lower and upper bound that the parts set for a number, length or item count."""
    low: Bound = (float("-inf"), False)
    high: Bound = (float("inf"), False)
    for part in parts:
        if kind in NUMBERS:
            lows = [(part.get("minimum"), False), (part.get("exclusiveMinimum"), True)]
            highs = [(part.get("maximum"), False), (part.get("exclusiveMaximum"), True)]
        else:
            least, most = SIZE_KEYWORDS.get(kind, ("", ""))
            lows, highs = [(part.get(least), False)], [(part.get(most), False)]
        for value, is_open in lows:
            if isinstance(value, int | float) and not isinstance(value, bool):
                low = max(low, (value, is_open))
        for value, is_open in highs:
            if isinstance(value, int | float) and not isinstance(value, bool):
                high = min(high, (value, is_open), key=lambda bound: (bound[0], not bound[1]))
    return low, high


def _is_below(first: tuple[Bound, Bound], second: tuple[Bound, Bound]) -> bool:
    """Whether the whole first interval is below the second one."""
    (top, top_is_open), (bottom, bottom_is_open) = first[1], second[0]
    return top < bottom or (top == bottom and (top_is_open or bottom_is_open))
