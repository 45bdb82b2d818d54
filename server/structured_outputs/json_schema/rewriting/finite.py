"""ending_schema: replaces references that no finite value matches by false."""

from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.structured_outputs.json_schema.kinds import ALL, ARRAY, OBJECT, Kinds, kinds_of_node
from server.structured_outputs.json_schema.rewriting.writer import Schema

MAX_DEPTH = 120  # of the written schema; llguidance reads 127 levels
MAX_VALUES = 200_000  # in the written schema, repeated ones included

_MAX_PASSES = 50
_PREFIX = "#/$defs/"

Definitions = Mapping[str, Schema]


class NoValueError(Exception):
    """No finite value matches a schema."""


def ending_schema(root: Schema, definitions: Definitions, param: str) -> tuple[Schema, dict[str, Schema]]:
    """Return the root, and the definitions that it needs, with false for each reference that no finite value matches.

    Raises NoValueError if no value matches the root, and InvalidRequest if the schema is too large or a reference leads
    directly back to itself.
    """
    _check_size([root, *definitions.values()], param)
    _check_circles(definitions, param)
    alive = _alive(definitions)
    if not _has_value(root, ALL, alive):
        raise NoValueError
    needed: dict[str, Schema] = {}
    ending = _pruned(root, alive)
    pending = list(_names_in(ending))
    while pending:
        name = pending.pop()
        if name not in needed:
            needed[name] = _pruned(definitions[name], alive)
            pending += _names_in(needed[name])
    return ending, needed


def _check_size(schemas: list[Schema], param: str) -> None:
    weights: dict[int, tuple[int, int]] = {}
    total = 0
    for schema in schemas:
        count, depth = _weigh(schema, weights)
        total += count
        if total > MAX_VALUES or depth > MAX_DEPTH:
            raise InvalidRequest(
                f"{param} is too large once its oneOf, not and if are spelled out: {total:,} values, {depth} levels "
                f"deep; the limits are {MAX_VALUES:,} and {MAX_DEPTH}; simplify it",
                param=param,
            )


def _weigh(value: Any, weights: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of JSON values in a value, and its depth. weights: cache by id, since parts are shared."""
    if not isinstance(value, dict | list):
        return 1, 0
    if id(value) not in weights:
        inner = [_weigh(item, weights) for item in (value.values() if isinstance(value, dict) else value)]
        weights[id(value)] = (1 + sum(count for count, _ in inner), 1 + max((depth for _, depth in inner), default=0))
    return weights[id(value)]


def _check_circles(definitions: Definitions, param: str) -> None:
    """Raise InvalidRequest if a definition refers to itself without a property or item in between."""
    finished: set[str] = set()
    for start in definitions:
        path: list[tuple[str, Iterator[str]]] = [(start, _names_in_place(definitions[start]))]
        open_names = {start}
        while path and start not in finished:
            name, following = path[-1]
            follower = next((each for each in following if each not in finished), None)
            if follower is None:
                finished.add(name)
                open_names.discard(name)
                path.pop()
            elif follower in open_names:
                raise InvalidRequest(
                    f"{param} has a $ref that leads back to itself with nothing in between; "
                    "refer to the schema from a property or an item",
                    param=param,
                )
            else:
                open_names.add(follower)
                path.append((follower, _names_in_place(definitions[follower])))


def _names_in_place(schema: Schema) -> Iterator[str]:
    """Yield the names of the definitions that apply to the value itself, directly or through allOf and anyOf."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"].removeprefix(_PREFIX)
            stack += [*node.get("allOf", ()), *node.get("anyOf", ())]


def _schemas_in(node: dict[str, Any]) -> Iterator[Schema]:
    for keyword in ("properties", "patternProperties"):
        yield from node.get(keyword, {}).values()
    for keyword in ("allOf", "anyOf", "prefixItems"):
        yield from node.get(keyword, ())
    for keyword in ("additionalProperties", "items"):
        if keyword in node:
            yield node[keyword]


def _names_in(schema: Schema) -> Iterator[str]:
    stack, seen = [schema], set()
    while stack:
        node = stack.pop()
        if isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            if "$ref" in node:
                yield node["$ref"].removeprefix(_PREFIX)
            stack += _schemas_in(node)


def _alive(definitions: Definitions) -> set[str]:
    """Return the names of definitions that a finite value can match; all names, if that takes too long to determine."""
    alive: set[str] = set()
    for _ in range(_MAX_PASSES):
        dead = [name for name in reversed(list(definitions)) if name not in alive]  # earlier ones refer to later ones
        before = len(alive)
        for name in dead:
            if _has_value(definitions[name], ALL, alive):
                alive.add(name)
        if len(alive) == before:
            return alive
    return set(definitions)


def _has_value(node: Schema, kinds: Kinds, alive: set[str]) -> bool:
    """Return False only if no finite value of these kinds matches. alive: names of definitions that have a value."""
    if isinstance(node, bool):
        return node
    kinds &= kinds_of_node(node)
    for part in node.get("allOf", ()):
        if isinstance(part, dict):
            kinds &= kinds_of_node(part)
    if "$ref" in node and node["$ref"].removeprefix(_PREFIX) not in alive:
        return False
    if not all(_has_value(part, kinds, alive) for part in node.get("allOf", ())):
        return False
    if "anyOf" in node and not any(_has_value(part, kinds, alive) for part in node["anyOf"]):
        return False
    return (
        bool(kinds - {ARRAY, OBJECT})
        or (ARRAY in kinds and _has_array(node, alive))
        or (OBJECT in kinds and _has_object(node, alive))
    )


def _has_array(node: dict[str, Any], alive: set[str]) -> bool:
    least, first = node.get("minItems", 0), node.get("prefixItems", ())
    needed = [*first[:least], *([node.get("items", True)] if least > len(first) else [])]
    return all(_has_value(item, ALL, alive) for item in needed)


def _has_object(node: dict[str, Any], alive: set[str]) -> bool:
    properties = node.get("properties", {})
    return all(
        _has_value(properties[name], ALL, alive) for name in node.get("required", ()) if name in properties
    ) and (bool(node.get("patternProperties")) or _has_others(node, alive))


def _has_others(node: dict[str, Any], alive: set[str]) -> bool:
    """Return False if an undeclared property is required but can have no finite value."""
    declared = node.get("properties", {})
    is_needed = any(name not in declared for name in node.get("required", ()))
    return not is_needed or _has_value(node.get("additionalProperties", True), ALL, alive)


def _pruned(node: Schema, alive: set[str]) -> Schema:
    """Return `node` with false in place of references to definitions that are not in `alive`."""
    if isinstance(node, bool):
        return node
    if "$ref" in node and node["$ref"].removeprefix(_PREFIX) not in alive:
        return False
    pruned = dict(node)
    for keyword, value in node.items():
        match keyword:
            case "properties" | "patternProperties":
                pruned[keyword] = {name: _pruned(part, alive) for name, part in value.items()}
            case "allOf" | "anyOf" | "prefixItems":
                pruned[keyword] = [_pruned(part, alive) for part in value]
            case "additionalProperties" | "items":
                pruned[keyword] = _pruned(value, alive)
    return pruned
