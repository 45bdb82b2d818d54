"""Translation: rewrites a JSON schema with only the keywords that a grammar enforces."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import Location, path_text, quote
from server.structured_outputs.json_schema.keywords import (
    ANNOTATIONS,
    ARRAY_KEYWORDS,
    CONCERNS,
    FORMAT_PATTERNS,
    FORMATS,
    NUMBER_KEYWORDS,
    OBJECT_KEYWORDS,
    STRING_KEYWORDS,
)
from server.structured_outputs.json_schema.kinds import (
    ALL,
    FRACTION,
    NUMBERS,
    Kinds,
    kinds_of_node,
    kinds_of_values,
    types_of_kinds,
)
from server.structured_outputs.json_schema.numbers import (
    given_keyword,
    inexact_limit,
    inexact_multiple,
    inexact_number,
    limits_of,
    sizes_of,
    without_minus_zero,
)
from server.structured_outputs.json_schema.references import References
from server.structured_outputs.json_schema.rewriting.arrays import write_array
from server.structured_outputs.json_schema.rewriting.branches import BranchKeywords
from server.structured_outputs.json_schema.rewriting.contradictions import contradictions
from server.structured_outputs.json_schema.rewriting.disjoint import Disjointness
from server.structured_outputs.json_schema.rewriting.negation import InexpressibleError, Negation
from server.structured_outputs.json_schema.rewriting.objects import write_object
from server.structured_outputs.json_schema.rewriting.writer import Node, Schema, all_of
from server.structured_outputs.languages.patterns import checked_construct

MAX_NODES = 10_000  # schemas written for one document; real ones need some hundreds

_DYNAMIC = frozenset({"$dynamicRef", "$recursiveRef"})
_WITHOUT_EFFECT = ANNOTATIONS | {"$dynamicAnchor", "$recursiveAnchor", "then", "else"}


class Translation:
    """The rewriting of one schema document. The written schema accepts every value that the original accepts.

    The written schema accepts other values only if `ignored` lists the keyword that would exclude them; with
    `is_strict`, such a keyword is an error instead.
    """

    def __init__(self, references: References, *, is_strict: bool) -> None:
        self.ignored: dict[str, None] = {}  # paths, in order
        self.contradictions: dict[str, str] = {}  # reasons, by the paths of keywords that no value can match
        self._references = references
        self._is_strict = is_strict
        self._constructs: dict[str, str | None] = {}  # unsupported constructs, by the pattern
        self._names: dict[int, str] = {}  # names of referenced schemas, by the identity of the node
        self._written: dict[str, Schema] = {}
        self._pending: list[tuple[str, Location, Any]] = []
        self._num_nodes = 0
        self._disjointness = Disjointness(lambda reference: references.resolve(reference, ())[1])
        self._negation = Negation(self, references)
        self._branches = BranchKeywords(self, self._negation)

    def run(self, root: Any, location: Location) -> tuple[Schema, dict[str, Schema]]:
        """Return the written root schema, and the definitions that it refers to as "#/$defs/NAME", by name."""
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
        """Count one written schema. Raises InvalidRequest if there are more than MAX_NODES."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            path = path_text(location[:1])
            raise InvalidRequest(
                f"{path} has more than {MAX_NODES:,} schemas, which is the limit, once its oneOf, not and if are "
                "spelled out; simplify it",
                param=path,
            )

    def schema(self, node: Any, location: Location, kinds: Kinds) -> Schema:
        """Rewrite a schema. kinds: kinds of the possible instances; values of other kinds may match or not."""
        self.count(location)
        if isinstance(node, bool):
            return node
        kinds &= kinds_of_node(node)
        impossible = self._impossible(node, location, kinds)
        kinds -= impossible
        if not kinds:
            return False
        written: Node = {}
        extra: list[Schema] = []  # after the rest, to keep the order of properties
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
        """Rewrite a keyword, together with related keywords, into `written` and `extra`. Return the related keywords,
        which the caller then skips."""
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
                extra.append(self._branches.one_of(node, place, kinds))
            case "not":
                extra.append(self._branches.opposite(value, place, kinds))
            case "if":
                extra.append(self._branches.condition(node, location, kinds))
            case _ if keyword in NUMBER_KEYWORDS:
                written.update(self._numbers(node, location, is_integer=FRACTION not in kinds))
                return set(NUMBER_KEYWORDS)
            case _ if keyword in STRING_KEYWORDS:
                written.update(self._string(node, location, extra))
                return set(STRING_KEYWORDS)
            case _ if keyword in ARRAY_KEYWORDS:
                written.update(write_array(self, node, location, extra))
                return set(ARRAY_KEYWORDS)
            case _ if keyword in OBJECT_KEYWORDS:
                written.update(write_object(self, node, location, kinds, extra))
                return set(OBJECT_KEYWORDS)
            case _ if keyword in _DYNAMIC:
                self.drop(place, "a grammar cannot enforce it, only $ref")
            case _ if keyword not in _WITHOUT_EFFECT and not keyword.startswith("x-"):
                self.ignored[path_text(place)] = None  # no meaning in JSON Schema
        return set()

    def _impossible(self, node: Node, location: Location, kinds: Kinds) -> Kinds:
        """Return the kinds whose values are all invalid because the schema's own keywords contradict each other."""
        impossible: Kinds = frozenset()
        for found in contradictions(node, kinds):
            self.contradictions.setdefault(path_text((*location, found.keyword)), found.reason)
            impossible |= found.kinds
        return kinds & impossible

    def _values(self, keyword: str, value: Any, place: Location, written: Node, extra: list[Schema]) -> None:
        if (number := inexact_number(value)) is None:
            written[keyword] = without_minus_zero(value)
        else:
            self.drop(place, f"a grammar can represent integers up to 2^53 exactly, and {quote(number)} is beyond")
            extra.append(_of_types(kinds_of_values(value if keyword == "enum" else [value])))

    def _numbers(self, node: Node, location: Location, *, is_integer: bool) -> Node:
        written: Node = {}
        if "multipleOf" in node:
            if (reason := inexact_multiple(node["multipleOf"])) is None:
                written["multipleOf"] = node["multipleOf"]
            else:
                self.drop((*location, "multipleOf"), reason)
        for keyword, value in limits_of(node).items():
            if (reason := inexact_limit(keyword, value, is_integer=is_integer)) is None:
                written[keyword] = value
            else:
                self.drop((*location, given_keyword(node, keyword)), reason)
        return written

    def reference(self, reference: str, location: Location) -> str:
        """Return a `$ref` to the rewritten form of the referenced schema, which `run` defines later."""
        place, node = self._references.resolve(reference, location)
        if id(node) not in self._names:
            self._names[id(node)] = name = f"d{len(self._names)}"
            self._pending.append((name, place, node))
        return f"#/$defs/{self._names[id(node)]}"

    def are_disjoint(self, first: Any, second: Any, kinds: Kinds) -> bool:
        return self._disjointness.holds(first, second, kinds)

    def all_disjoint(self, schemas: list[Any], kinds: Kinds) -> bool:
        """Whether one required property has different values in all of the schemas, so that they are disjoint."""
        return self._disjointness.all_hold(schemas, kinds)

    def drop(self, place: Location, reason: str) -> None:
        """Leave out the keyword at the location, and list it as ignored. Raises UnsupportedParameter if strict."""
        path = path_text(place)
        if self._is_strict:
            raise UnsupportedParameter(
                f"{path} is not supported under strict: {reason}; change it, or leave strict out to have it ignored",
                param=path,
            )
        self.ignored[path] = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Return a context that restores `ignored` and the negated definitions if it ends with InexpressibleError."""
        ignored, num_negated = dict(self.ignored), self._negation.num_named
        try:
            yield
        except InexpressibleError:
            self.ignored = ignored
            self._negation.discard_names_after(num_negated)
            raise

    def unsupported_construct(self, pattern: str, place: Location) -> str | None:
        """Return the pattern's first construct that a grammar cannot enforce, or None. Raises InvalidRequest if the
        pattern is not a regular expression."""
        if pattern not in self._constructs:
            self._constructs[pattern] = checked_construct(pattern, path_text(place))
        return self._constructs[pattern]

    def _string(self, node: Node, location: Location, extra: list[Schema]) -> Node:
        written: Node = {**sizes_of(node, "minLength", "maxLength")}
        if "pattern" in node:
            place = (*location, "pattern")
            if (construct := self.unsupported_construct(node["pattern"], place)) is None:
                written["pattern"] = node["pattern"]
            else:
                self.drop(place, f"a grammar cannot enforce {construct}")
        if "format" in node:
            if node["format"] in FORMATS:
                written["format"] = node["format"]
            elif node["format"] in FORMAT_PATTERNS:
                extra.append({"pattern": FORMAT_PATTERNS[node["format"]]})
            else:  # an annotation, even with strict
                self.ignored[path_text((*location, "format"))] = None
        return written


def _of_types(kinds: Kinds) -> Schema:
    return {"type": types_of_kinds(kinds | NUMBERS if FRACTION in kinds else kinds)}
