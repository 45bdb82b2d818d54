"""write_array: rewrites the array keywords of a JSON schema."""

import itertools
from typing import Any

from server.schemas.base import Location
from server.structured_outputs.json_schema.kinds import ALL, ARRAY, identity, types_of_kinds
from server.structured_outputs.json_schema.numbers import inexact_number, sizes_of, without_minus_zero
from server.structured_outputs.json_schema.rewriting.writer import Node, Schema, Writer, any_of

_MAX_UNIQUE = 4  # values, which have 65 arrangements


def write_array(writer: Writer, node: Node, location: Location, extra: list[Schema]) -> Node:
    """Rewrite the schema's array keywords. Appends to `extra` further schemas that instances must also match."""
    written: Node = {**sizes_of(node, "minItems", "maxItems")}
    prefix, items = _array_parts(node)
    if prefix is not None:
        name, schemas = prefix
        written["prefixItems"] = [
            writer.schema(item, (*location, name, index), ALL) for index, item in enumerate(schemas)
        ]
    if items is not None:
        name, schema = items
        written["items"] = writer.schema(schema, (*location, name), ALL)
    if node.get("uniqueItems") and written.get("maxItems", 2) > 1:
        if (arranged := _arrangements(node)) is None:
            writer.drop(
                (*location, "uniqueItems"), "a grammar can enforce it only for items of at most four known values"
            )
        else:
            extra.append(arranged)
    _contains(writer, node, location, extra)
    if node.get("unevaluatedItems", True) not in (True, {}) and items is None:
        writer.drop((*location, "unevaluatedItems"), "a grammar cannot enforce it, only items")
    return written


def _contains(writer: Writer, node: Node, location: Location, extra: list[Schema]) -> None:
    if "contains" not in node or (node.get("minContains") == 0 and "maxContains" not in node):
        return
    if node["contains"] in (True, {}):
        limits = {"minItems": node.get("minContains", 1)}
        limits |= {"maxItems": node["maxContains"]} if "maxContains" in node else {}
        extra.append(sizes_of(limits, "minItems", "maxItems"))
    else:
        writer.drop((*location, "contains"), "a grammar cannot enforce it, only items and prefixItems")


def _array_parts(node: Node) -> tuple[tuple[str, list[Any]] | None, tuple[str, Any] | None]:
    """Return (keyword, schemas) for leading items and (keyword, schema) for further items, in any draft's keywords."""
    if isinstance(node.get("items"), list):
        rest = ("additionalItems", node["additionalItems"]) if "additionalItems" in node else None
        return ("items", node["items"]), rest
    prefix = ("prefixItems", node["prefixItems"]) if "prefixItems" in node else None
    return prefix, ("items", node["items"]) if "items" in node else None


def _arrangements(node: Node) -> Schema | None:
    """Write `uniqueItems` as an enum of all valid arrays; None unless the items can only have a few known values."""
    values = _known_values(node.get("items"))
    if values is None or len(values) > _MAX_UNIQUE or "prefixItems" in node or inexact_number(values) is not None:
        return None
    values = without_minus_zero(values)
    arrays = [list(order) for size in range(len(values) + 1) for order in itertools.permutations(values, size)]
    return any_of([{"enum": arrays}, {"type": types_of_kinds(ALL - {ARRAY})}])


def _known_values(node: Any) -> list[Any] | None:
    if not isinstance(node, dict):
        return None
    if node.get("type") == "boolean":
        return [False, True]
    values = [node["const"]] if "const" in node else node.get("enum")
    return None if values is None else list({identity(value): value for value in values}.values())
