"""Negation: writes schemas that match exactly what another JSON schema does not match."""

import itertools
from collections.abc import Iterator
from typing import Any

from server.schemas.base import Location, quote
from server.structured_outputs.json_schema.keywords import ANNOTATIONS, CONCERNS, FORMAT_PATTERNS, FORMATS
from server.structured_outputs.json_schema.kinds import (
    ALL,
    ARRAY,
    FRACTION,
    INTEGER,
    NUMBERS,
    OBJECT,
    STRING,
    Kinds,
    identity,
    kind_of,
    kinds_of_node,
    kinds_of_types,
    types_of_kinds,
)
from server.structured_outputs.json_schema.numbers import MAX_SIZE, inexact_limit
from server.structured_outputs.json_schema.references import References
from server.structured_outputs.json_schema.rewriting.writer import ABSENT, Node, Schema, Writer, all_of, any_of
from server.structured_outputs.languages.patterns import MAX_EXCLUDED, MAX_EXCLUDED_LENGTH, all_texts_but

_MAX_REFERENCES = 24  # in a chain
_MAX_BRANCHES = 6  # of a oneOf whose opposite is written


class InexpressibleError(Exception):
    """A grammar cannot express the negation of a schema. The message names the part that prevents it."""


class Negation:
    """Writes negated schemas, which match exactly the instances that a schema rejects.

    Methods raise InexpressibleError if a grammar cannot express the exact negation: an approximate one would allow
    invalid answers.
    """

    def __init__(self, writer: Writer, references: References) -> None:
        self._writer = writer
        self._references = references
        self._names: dict[tuple[int, Kinds], str] = {}
        self._num_names = 0
        self._num_followed = 0

    @property
    def num_named(self) -> int:
        return len(self._names)

    def discard_names_after(self, num_named: int) -> None:
        """Keep only the first `num_named` negated definitions: later ones may be incomplete after an error."""
        for key in list(self._names)[num_named:]:
            del self._names[key]

    def schema(self, node: Any, location: Location, kinds: Kinds) -> Schema:
        """Return a schema that matches exactly those instances of these kinds that `node` does not match. Instances of
        other kinds may match or not."""
        self._writer.count(location)
        if isinstance(node, bool):
            return not node
        alternatives: list[Schema] = []
        inner = kinds & kinds_of_node(node)
        for keyword in node:
            if keyword in ("type", "enum", "const"):
                alternatives += self._keyword(keyword, node, location, kinds)
            elif CONCERNS.get(keyword, inner) & inner:  # instances of other kinds do not match anyway
                alternatives += self._keyword(keyword, node, location, inner)
        return any_of(alternatives)

    def _keyword(self, keyword: str, node: Node, location: Location, kinds: Kinds) -> Iterator[Schema]:
        """Yield schemas that together match the instances that violate one keyword."""
        value, place = node[keyword], (*location, keyword)
        match keyword:
            case "type":
                yield _of_kinds(kinds - kinds_of_types(value), kinds)
            case "enum":
                yield from _other_values(value, kinds)
            case "const":
                yield from _other_values([value], kinds)
            case "$ref":
                yield self._reference(value, place, kinds)
            case "allOf":
                for index, part in enumerate(value):
                    yield self.schema(part, (*place, index), kinds)
            case "anyOf":
                yield all_of([self.schema(part, (*place, index), kinds) for index, part in enumerate(value)])
            case "oneOf":
                yield from self._one_of(value, place, kinds)
            case "not":
                yield self._writer.schema(value, place, kinds)
            case "if":
                yield from self._condition(node, location, kinds)
            case "then" | "else":
                pass
            case _ if keyword in CONCERNS and CONCERNS[keyword] == NUMBERS:
                yield from _number_keyword(keyword, node)
            case "minLength" | "minItems" | "minProperties":
                if value > 0:
                    yield _sized(keyword, f"max{keyword[3:]}", int(value) - 1)
            case "maxLength" | "maxItems" | "maxProperties":
                if value < MAX_SIZE:  # no answer is larger
                    yield _sized(keyword, f"min{keyword[3:]}", int(value) + 1)
            case "required":
                for name in value:
                    yield {"type": "object", "properties": {name: ABSENT}}
            case "properties":
                for name, part in value.items():
                    if (opposite := self.schema(part, (*place, name), ALL)) is not False:
                        yield {"type": "object", "properties": {name: opposite}, "required": [name]}
            case "prefixItems" | "items" | "additionalItems":
                yield from self._items(keyword, node, location)
            case "contains" if not node.keys() & {"minContains", "maxContains"}:
                yield {"type": "array", "items": self.schema(value, place, ALL)}
            case "dependencies" | "dependentRequired" | "dependentSchemas":
                yield from self._dependencies(value, place)
            case _:
                _check_without_effect(keyword, value)

    def _reference(self, reference: str, location: Location, kinds: Kinds) -> Schema:
        """Return a reference to the negated form of the referenced schema, which is written once, perhaps recursive."""
        place, node = self._references.resolve(reference, location)
        key = (id(node), kinds)
        if key not in self._names:
            if self._num_followed >= _MAX_REFERENCES:
                raise InexpressibleError("a long chain of references")
            self._num_names += 1
            self._names[key] = name = f"n{self._num_names}"
            self._num_followed += 1
            try:
                self._writer.define(name, self.schema(node, place, kinds))
            finally:
                self._num_followed -= 1
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def _one_of(self, branches: list[Any], place: Location, kinds: Kinds) -> Iterator[Schema]:
        """Yield schemas for the instances that match none of the branches, or at least two."""
        yield all_of([self.schema(branch, (*place, index), kinds) for index, branch in enumerate(branches)])
        overlapping = [
            (index, later)
            for index in range(len(branches))
            for later in range(index + 1, len(branches))
            if not self._writer.are_disjoint(branches[index], branches[later], kinds)
        ]
        if overlapping and len(branches) > _MAX_BRANCHES:
            raise InexpressibleError("a oneOf of many branches that may match at the same time")
        for pair in overlapping:
            yield all_of([self._writer.schema(branches[index], (*place, index), kinds) for index in pair])

    def _condition(self, node: Node, location: Location, kinds: Kinds) -> Iterator[Schema]:
        place = (*location, "if")
        if "then" in node:
            holds = self._writer.schema(node["if"], place, kinds)
            yield all_of([holds, self.schema(node["then"], (*location, "then"), kinds)])
        if "else" in node:
            yield all_of([self.schema(node["if"], place, kinds), self.schema(node["else"], (*location, "else"), kinds)])

    def _items(self, keyword: str, node: Node, location: Location) -> Iterator[Schema]:
        """Yield schemas for the arrays in which a leading item violates its schema, or that have further items although
        none are allowed."""
        value = node[keyword]
        if isinstance(value, list):
            for index, part in enumerate(value):
                opposite = self.schema(part, (*location, keyword, index), ALL)
                if opposite is not False:
                    yield {"type": "array", "prefixItems": [True] * index + [opposite], "minItems": index + 1}
        elif keyword == "items" or isinstance(node.get("items"), list):
            first = node.get("prefixItems", []) if keyword == "items" else node["items"]
            if value is False:
                yield {"type": "array", "minItems": len(first) + 1}
            elif value not in (True, {}):
                raise InexpressibleError(keyword)

    def _dependencies(self, dependencies: Node, place: Location) -> Iterator[Schema]:
        for name, value in dependencies.items():
            if isinstance(value, list):
                for other in value:
                    yield {"type": "object", "required": [name], "properties": {other: ABSENT}}
            else:
                present: Schema = {"type": "object", "required": [name]}
                yield all_of([present, self.schema(value, (*place, name), frozenset({OBJECT}))])


def _check_without_effect(keyword: str, value: Any) -> None:
    """Raise InexpressibleError if the keyword restricts instances. For keywords whose negation cannot be written."""
    match keyword:
        case "format":
            has_effect = value in FORMATS or value in FORMAT_PATTERNS
        case "uniqueItems":
            has_effect = value
        case "additionalProperties" | "propertyNames" | "unevaluatedItems" | "unevaluatedProperties":
            has_effect = value not in (True, {})
        case "patternProperties":
            has_effect = any(part not in (True, {}) for part in value.values())
        case "minContains" | "maxContains":
            has_effect = False  # handled with `contains`
        case _:
            has_effect = keyword not in ANNOTATIONS and (keyword in CONCERNS or keyword.startswith("$"))
    if has_effect:
        raise InexpressibleError(keyword)


def _of_kinds(wanted: Kinds, possible: Kinds) -> Schema:
    """Return a schema that accepts values of the wanted kinds and rejects values of the other possible kinds."""
    if FRACTION in wanted and INTEGER not in wanted and INTEGER not in possible:
        wanted |= {INTEGER}
    types = types_of_kinds(wanted)
    if types is None:
        raise InexpressibleError("type: integer")
    return {"type": types} if types else False


def _sized(keyword: str, opposite: str, size: int) -> Schema:
    (kind,) = CONCERNS[keyword]
    return {"type": kind, opposite: size}


def _number_keyword(keyword: str, node: Node) -> Iterator[Schema]:
    value = node[keyword]
    _check_exact(value)
    match keyword:
        case "minimum" if node.get("exclusiveMinimum") is not True:
            yield {"type": "number", "exclusiveMaximum": value}
        case "maximum" if node.get("exclusiveMaximum") is not True:
            yield {"type": "number", "exclusiveMinimum": value}
        case "exclusiveMinimum":
            limit = node.get("minimum") if value is True else value
            if limit is not None and limit is not False:
                yield {"type": "number", "maximum": limit}
        case "exclusiveMaximum":
            limit = node.get("maximum") if value is True else value
            if limit is not None and limit is not False:
                yield {"type": "number", "minimum": limit}
        case "multipleOf":
            raise InexpressibleError(keyword)


def _other_values(values: list[Any], kinds: Kinds) -> Iterator[Schema]:
    """Yield schemas for all values of these kinds except the given values."""
    by_kind: dict[str, dict[Any, Any]] = {}
    for value in values:
        kind = kind_of(value)
        by_kind.setdefault("number" if kind in NUMBERS else kind, {})[identity(value)] = value
    whole = kinds - {kind for kind in by_kind if kind != "number"} - (NUMBERS if "number" in by_kind else set())
    yield _of_kinds(whole, kinds)
    for kind, listed in by_kind.items():
        match kind:
            case "null":
                pass
            case "boolean":
                if left := [value for value in (False, True) if identity(value) not in listed]:
                    yield {"enum": left}
            case "number" if kinds & NUMBERS:
                for value in listed.values():
                    _check_exact(value)
                yield from _between(sorted(listed.values()))
            case "string" if STRING in kinds:
                lengths = [len(value) for value in listed.values()]
                if sum(lengths) > MAX_EXCLUDED or max(lengths) > MAX_EXCLUDED_LENGTH:
                    raise InexpressibleError("such long texts")
                yield {"type": "string", "pattern": all_texts_but(listed.values())}
            case "array" | "object" if kind in kinds:
                size = "minItems" if kind == ARRAY else "minProperties"
                if any(listed.values()):
                    raise InexpressibleError(f"a value that is an {kind}")
                yield {"type": kind, size: 1}


def _check_exact(value: float) -> None:
    """Raise InexpressibleError if a grammar cannot represent the number exactly as a limit."""
    if inexact_limit("minimum", value, is_integer=False) is not None:
        raise InexpressibleError(f"a number with as many digits as {quote(value)}")


def _between(values: list[float]) -> Iterator[Schema]:
    """Yield schemas for all numbers except the given ones, which are sorted."""
    yield {"type": "number", "exclusiveMaximum": values[0]}
    for low, high in itertools.pairwise(values):
        yield {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
    yield {"type": "number", "exclusiveMinimum": values[-1]}
