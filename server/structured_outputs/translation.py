"""Translation: writes a JSON schema with those keywords alone that the grammar enforces."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import Location, path_text, quote
from server.structured_outputs.composition import ABSENT, Schema, all_of, any_of
from server.structured_outputs.contradictions import contradictions
from server.structured_outputs.counting import PropertyCounts, arrangements
from server.structured_outputs.disjoint import Disjointness
from server.structured_outputs.formats import FORMAT_PATTERNS, FORMATS
from server.structured_outputs.keywords import (
    ANNOTATIONS,
    ARRAY_KEYWORDS,
    CONCERNS,
    IN_PLACE,
    NUMBER_KEYWORDS,
    OBJECT_KEYWORDS,
    STRING_KEYWORDS,
)
from server.structured_outputs.kinds import (
    ALL,
    FRACTION,
    NUMBERS,
    Kinds,
    kinds_of_node,
    kinds_of_values,
    types_of_kinds,
)
from server.structured_outputs.names import close_to_names, name_pattern, patterns_in
from server.structured_outputs.negation import InexpressibleError, Negation
from server.structured_outputs.numbers import (
    given_keyword,
    inexact_limit,
    inexact_multiple,
    inexact_number,
    limits_of,
    sizes_of,
    without_minus_zero,
)
from server.structured_outputs.patterns import checked_construct
from server.structured_outputs.references import References

MAX_NODES = 10_000  # schemas that are written for one; real ones need some hundreds

_MAX_OVERLAPS = 64  # pairs of branches of one oneOf that may both match
_DYNAMIC = frozenset({"$dynamicRef", "$recursiveRef"})
_WITHOUT_EFFECT = ANNOTATIONS | {"$dynamicAnchor", "$recursiveAnchor", "then", "else"}

Node = dict[str, Any]


class Translation:
    """One document's. What is written accepts what the schema accepts, and less than that never.

    It accepts more only where `ignored` names the keyword; under `is_strict` that is an error instead.
    """

    def __init__(self, references: References, *, is_strict: bool) -> None:
        self.ignored: dict[str, None] = {}  # paths, in order
        self.contradictions: dict[str, str] = {}  # paths of what no value matches, each with the reason
        self._references = references
        self._is_strict = is_strict
        self._constructs: dict[str, str | None] = {}  # that patterns have and no grammar can follow
        self._names: dict[int, str] = {}  # of what is referred to, by the identity of the node
        self._written: dict[str, Schema] = {}
        self._pending: list[tuple[str, Location, Any]] = []
        self._num_nodes = 0
        self._disjointness = Disjointness(lambda reference: references.resolve(reference, ())[1])
        self._negation = Negation(self, references)

    def run(self, root: Any, location: Location) -> tuple[Schema, dict[str, Schema]]:
        """The root, and what it refers to by name ("#/$defs/NAME")."""
        schema = self.schema(root, location, ALL)
        while self._pending:
            name, place, node = self._pending.pop()
            self._written[name] = self.schema(node, place, ALL)
        return schema, self._written

    @property
    def has_references(self) -> bool:
        return bool(self._names)

    def define(self, name: str, schema: Schema) -> None:
        self._written[name] = schema

    def count(self, location: Location) -> None:
        """One more schema is written. Raises InvalidRequest when there are too many."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            path = path_text(location[:1])
            raise InvalidRequest(
                f"{path} has more than {MAX_NODES:,} schemas within, counting what its oneOf, not and if stand for; "
                "the limit is that: make it simpler",
                param=path,
            )

    def schema(self, node: Any, location: Location, kinds: Kinds) -> Schema:
        """kinds: of the instances that can come here; others may match or not."""
        self.count(location)
        if isinstance(node, bool):
            return node
        kinds &= kinds_of_node(node)
        impossible = self._impossible(node, location, kinds)
        kinds -= impossible
        if not kinds:
            return False
        written: Node = {}
        extra: list[Schema] = []  # after the rest, so that they do not change the order of properties
        if impossible:
            extra.append(_of_types(kinds))
        done: set[str] = set()
        for keyword in node:
            if keyword not in done and CONCERNS.get(keyword, kinds) & kinds:
                done |= self._keyword(keyword, node, location, kinds, written, extra)
        return all_of([written, *extra])

    def _keyword(
        self, keyword: str, node: Node, location: Location, kinds: Kinds, written: Node, extra: list[Schema]
    ) -> set[str]:
        """Write what one keyword says, and those that belong together with it. Returns these."""
        value, place = node[keyword], (*location, keyword)
        match keyword:
            case "type":
                written[keyword] = value
            case "enum" | "const":
                self._values(keyword, value, place, written, extra)
            case "$ref":
                written[keyword] = self.reference(value, place)
            case "allOf" | "anyOf":
                written[keyword] = [self.schema(part, (*place, index), kinds) for index, part in enumerate(value)]
            case "oneOf":
                extra.append(self._one_of(node, place, kinds))
            case "not":
                extra.append(self._not(value, place, kinds))
            case "if":
                extra.append(self._condition(node, location, kinds))
            case _ if keyword in NUMBER_KEYWORDS:
                written.update(self._numbers(node, location, is_integer=FRACTION not in kinds))
                return set(NUMBER_KEYWORDS)
            case _ if keyword in STRING_KEYWORDS:
                written.update(self._string(node, location, extra))
                return set(STRING_KEYWORDS)
            case _ if keyword in ARRAY_KEYWORDS:
                written.update(self._array(node, location, extra))
                return set(ARRAY_KEYWORDS)
            case _ if keyword in OBJECT_KEYWORDS:
                written.update(self._object(node, location, kinds, extra))
                return set(OBJECT_KEYWORDS)
            case _ if keyword in _DYNAMIC:
                self._drop(place, "no grammar can follow it, but $ref")
            case _ if keyword not in _WITHOUT_EFFECT and not keyword.startswith("x-"):
                self.ignored[path_text(place)] = None  # JSON Schema gives it no meaning
        return set()

    def _impossible(self, node: Node, location: Location, kinds: Kinds) -> Kinds:
        """The kinds of which the node's own keywords leave no value."""
        impossible: Kinds = frozenset()
        for found in contradictions(node, kinds):
            self.contradictions.setdefault(path_text((*location, found.keyword)), found.reason)
            impossible |= found.kinds
        return kinds & impossible

    def _values(self, keyword: str, value: Any, place: Location, written: Node, extra: list[Schema]) -> None:
        if (number := inexact_number(value)) is None:
            written[keyword] = without_minus_zero(value)
        else:
            self._drop(place, f"a grammar holds integers up to 2^53 exactly, and {quote(number)} is beyond")
            extra.append(_of_types(kinds_of_values(value if keyword == "enum" else [value])))

    def _numbers(self, node: Node, location: Location, *, is_integer: bool) -> Node:
        written: Node = {}
        if "multipleOf" in node:
            if (reason := inexact_multiple(node["multipleOf"])) is None:
                written["multipleOf"] = node["multipleOf"]
            else:
                self._drop((*location, "multipleOf"), reason)
        for keyword, value in limits_of(node).items():
            if (reason := inexact_limit(keyword, value, is_integer=is_integer)) is None:
                written[keyword] = value
            else:
                self._drop((*location, given_keyword(node, keyword)), reason)
        return written

    def reference(self, reference: str, location: Location) -> str:
        """What is written for `reference`: a `$ref` to what it means, which will be defined."""
        place, node = self._references.resolve(reference, location)
        if id(node) not in self._names:
            self._names[id(node)] = name = f"d{len(self._names)}"
            self._pending.append((name, place, node))
        return f"#/$defs/{self._names[id(node)]}"

    def are_disjoint(self, first: Any, second: Any, kinds: Kinds) -> bool:
        return self._disjointness.holds(first, second, kinds)

    def _drop(self, place: Location, reason: str) -> None:
        """Do without the keyword."""
        path = path_text(place)
        if self._is_strict:
            raise UnsupportedParameter(
                f"{path} is not supported under strict: {reason}; change it, or leave strict out to have it ignored",
                param=path,
            )
        self.ignored[path] = None

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Undo what is recorded inside, if it ends with InexpressibleError."""
        ignored, num_negated = dict(self.ignored), self._negation.num_named
        try:
            yield
        except InexpressibleError:
            self.ignored = ignored
            self._negation.forget_after(num_negated)
            raise

    def _not(self, node: Any, place: Location, kinds: Kinds) -> Schema:
        try:
            with self._attempt():
                return self._negation.schema(node, place, kinds)
        except InexpressibleError as error:
            self._drop(place, f"no grammar can follow the opposite of {error}")
            return True

    def _one_of(self, node: Node, place: Location, kinds: Kinds) -> Schema:
        """Branches that exclude each other as they are; others each with the opposite of those that may match too."""
        branches: list[Any] = node["oneOf"]
        beside = {keyword: value for keyword, value in node.items() if keyword not in ("oneOf", "anyOf")}
        written = [self.schema(branch, (*place, index), kinds) for index, branch in enumerate(branches)]
        overlaps = self._overlaps([{"allOf": [branch, beside]} for branch in branches], kinds)
        try:
            if sum(map(len, overlaps.values())) > 2 * _MAX_OVERLAPS:
                raise InexpressibleError("so many branches that may match at once")
            with self._attempt():
                opposites = {
                    index: self._negation.schema(branches[index], (*place, index), kinds) for index in overlaps
                }
        except InexpressibleError as error:
            self._drop(place, f"branches of it may match at once, and no grammar can follow the opposite of {error}")
            return any_of(written)
        return any_of(
            all_of([schema, *(opposites[other] for other in overlaps.get(index, ()))])
            for index, schema in enumerate(written)
        )

    def _overlaps(self, branches: list[Any], kinds: Kinds) -> dict[int, list[int]]:
        """The branches that an instance may match together with others, each with these."""
        overlaps: dict[int, list[int]] = {}
        if not self._disjointness.all_hold(branches, kinds):
            for first, second in itertools.combinations(range(len(branches)), 2):
                if not self.are_disjoint(branches[first], branches[second], kinds):
                    overlaps.setdefault(first, []).append(second)
                    overlaps.setdefault(second, []).append(first)
        return overlaps

    def _condition(self, node: Node, location: Location, kinds: Kinds) -> Schema:
        if "then" not in node and "else" not in node:
            return True
        place = (*location, "if")
        holds = self.schema(node["if"], place, kinds)
        then = self.schema(node.get("then", True), (*location, "then"), kinds)
        otherwise = self.schema(node.get("else", True), (*location, "else"), kinds)
        try:
            with self._attempt():
                fails = self._negation.schema(node["if"], place, kinds)
        except InexpressibleError as error:
            self._drop(place, f"no grammar can follow the opposite of {error}")
            fails = True
        return any_of([all_of([holds, then]), all_of([fails, otherwise])])

    def _string(self, node: Node, location: Location, extra: list[Schema]) -> Node:
        written: Node = {**sizes_of(node, "minLength", "maxLength")}
        if "pattern" in node:
            place = (*location, "pattern")
            if (construct := self._unsupported_construct(node["pattern"], place)) is None:
                written["pattern"] = node["pattern"]
            else:
                self._drop(place, f"no grammar can follow {construct}: write the pattern without")
        if "format" in node:
            if node["format"] in FORMATS:
                written["format"] = node["format"]
            elif node["format"] in FORMAT_PATTERNS:
                extra.append({"pattern": FORMAT_PATTERNS[node["format"]]})
            else:  # an annotation, also under strict
                self.ignored[path_text((*location, "format"))] = None
        return written

    def _array(self, node: Node, location: Location, extra: list[Schema]) -> Node:
        written: Node = {**sizes_of(node, "minItems", "maxItems")}
        prefix, items = array_parts(node)
        if prefix is not None:
            name, schemas = prefix
            written["prefixItems"] = [
                self.schema(item, (*location, name, index), ALL) for index, item in enumerate(schemas)
            ]
        if items is not None:
            name, schema = items
            written["items"] = self.schema(schema, (*location, name), ALL)
        if node.get("uniqueItems") and written.get("maxItems", 2) > 1:
            if (arranged := arrangements(node)) is None:
                self._drop((*location, "uniqueItems"), "a grammar can see to it for at most four known values")
            else:
                extra.append(arranged)
        self._contains(node, location, extra)
        if node.get("unevaluatedItems", True) not in (True, {}) and items is None:
            self._drop((*location, "unevaluatedItems"), "no grammar can follow it, but items")
        return written

    def _contains(self, node: Node, location: Location, extra: list[Schema]) -> None:
        if "contains" not in node or (node.get("minContains") == 0 and "maxContains" not in node):
            return
        if node["contains"] in (True, {}):
            limits = {"minItems": node.get("minContains", 1)}
            limits |= {"maxItems": node["maxContains"]} if "maxContains" in node else {}
            extra.append(sizes_of(limits, "minItems", "maxItems"))
        else:
            self._drop((*location, "contains"), "no grammar can follow it, but items and prefixItems")

    def _object(self, node: Node, location: Location, kinds: Kinds, extra: list[Schema]) -> Node:
        written: Node = {}
        for keyword in node:
            if keyword == "patternProperties":
                self._check_patterns(node[keyword], (*location, keyword))
            if keyword in ("properties", "patternProperties"):
                written[keyword] = {
                    name: self.schema(schema, (*location, keyword, name), ALL) for name, schema in node[keyword].items()
                }
            elif keyword == "additionalProperties":
                written[keyword] = self.schema(node[keyword], (*location, keyword), ALL)
            elif keyword == "required":
                written[keyword] = list(dict.fromkeys(node[keyword]))
        self._unevaluated_properties(node, location, written)
        sizes = sizes_of(node, "minProperties", "maxProperties")
        names = self._property_names(node.get("propertyNames", True), (*location, "propertyNames"))
        if sizes and isinstance(names, dict) and "properties" in names:
            if "patternProperties" in written:
                self._drop((*location, "propertyNames"), "a grammar cannot count properties beside patternProperties")
            else:
                close_to_names(written, names["properties"])  # so that they can be counted
            names = True
        counts = PropertyCounts(written, sizes.get("minProperties"), sizes.get("maxProperties"))
        written.update(counts.limits)
        if counts.beside is None:
            self._drop((*location, counts.keyword), "a grammar cannot count so many optional properties")
        else:
            extra.append(counts.beside)
        extra += self._dependencies(node, location, kinds)
        extra.append(names)
        return written

    def _unsupported_construct(self, pattern: str, place: Location) -> str | None:
        """What no grammar can follow. Raises InvalidRequest for what is no pattern."""
        if pattern not in self._constructs:
            self._constructs[pattern] = checked_construct(pattern, path_text(place))
        return self._constructs[pattern]

    def _check_patterns(self, patterns: Node, place: Location) -> None:
        """Raise UnsupportedParameter. Without the pattern, what is said of other properties would change too."""
        for pattern in patterns:
            if (construct := self._unsupported_construct(pattern, (*place, pattern))) is not None:
                path = path_text((*place, pattern))
                raise UnsupportedParameter(
                    f"{path} has {construct}; no grammar can follow it: write the pattern without", param=path
                )

    def _unevaluated_properties(self, node: Node, location: Location, written: Node) -> None:
        keyword = "unevaluatedProperties"
        if keyword not in node or "additionalProperties" in node or node[keyword] in (True, {}):
            return
        if node.keys() & set(IN_PLACE):
            self._drop((*location, keyword), "no grammar can follow it beside schemas that are combined")
        else:  # nothing else evaluates a property
            written["additionalProperties"] = self.schema(node[keyword], (*location, keyword), ALL)

    def _dependencies(self, node: Node, location: Location, kinds: Kinds) -> Iterator[Schema]:
        for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, value in node.get(keyword, {}).items():
                if isinstance(value, list):
                    needed: Schema = {"required": list(dict.fromkeys([name, *value]))}
                else:
                    schema = self.schema(value, (*location, keyword, name), kinds)
                    needed = all_of([{"required": [name]}, schema])
                yield any_of([{"properties": {name: ABSENT}}, needed])

    def _property_names(self, node: Any, place: Location) -> Schema:
        names = name_pattern(node)
        if names is None or any(
            self._unsupported_construct(pattern, (*place, "pattern")) for pattern in patterns_in(names)
        ):
            self._drop(place, "a grammar can follow an enum, a pattern or a length only")
            return True
        return names


def _of_types(kinds: Kinds) -> Schema:
    return {"type": types_of_kinds(kinds | NUMBERS if FRACTION in kinds else kinds)}


def array_parts(node: Node) -> tuple[tuple[str, list[Any]] | None, tuple[str, Any] | None]:
    """The schemas of the first items and of the others, each with its keyword, whatever draft spelled them."""
    if isinstance(node.get("items"), list):
        rest = ("additionalItems", node["additionalItems"]) if "additionalItems" in node else None
        return ("items", node["items"]), rest
    prefix = ("prefixItems", node["prefixItems"]) if "prefixItems" in node else None
    return prefix, ("items", node["items"]) if "items" in node else None
