"""Names of properties: `propertyNames`, rewritten as schemas of objects."""

from collections.abc import Iterator
from typing import Any

from server.structured_outputs.json_schema.keywords import ANNOTATIONS
from server.structured_outputs.json_schema.kinds import kinds_of_node
from server.structured_outputs.json_schema.numbers import sizes_of
from server.structured_outputs.json_schema.rewriting.composition import ABSENT, Schema, all_of

Node = dict[str, Any]


def name_pattern(node: Any) -> Schema | None:
    """Return a schema of objects whose property names all match `node`; None if none can be written."""
    if isinstance(node, bool):
        return True if node else {"maxProperties": 0}
    known = {"type", "enum", "const", "pattern", "minLength", "maxLength", *ANNOTATIONS}
    if node.keys() - known or "string" not in kinds_of_node(node):
        return None
    schemas: list[Schema] = []
    for values in ([node["const"]] if "const" in node else None, node.get("enum")):
        if values is not None:
            names = {name: True for name in values if isinstance(name, str)}
            schemas.append({"properties": names, "additionalProperties": False})
    patterns = [node["pattern"]] if "pattern" in node else []
    if "minLength" in node or "maxLength" in node:
        sizes = sizes_of(node, "minLength", "maxLength")
        patterns.append(rf"^[\s\S]{{{sizes.get('minLength', 0)},{sizes.get('maxLength', '')}}}$")
    schemas += [{"patternProperties": {pattern: True}, "additionalProperties": False} for pattern in patterns]
    return all_of(schemas)


def patterns_in(names: Schema) -> Iterator[str]:
    """Yield the patterns of a schema from `name_pattern`."""
    for schema in [names, *names.get("allOf", ())] if isinstance(names, dict) else ():
        yield from schema.get("patternProperties", ())


def close_to_names(written: Node, names: Node) -> None:
    """Restrict an object without patternProperties to properties with these names."""
    declared, others = written.get("properties", {}), written.get("additionalProperties", True)
    written["properties"] = {name: schema if name in names else ABSENT for name, schema in declared.items()}
    written["properties"] |= {name: others for name in names if name not in declared}
    written["additionalProperties"] = False
