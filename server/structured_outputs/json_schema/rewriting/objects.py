"""write_object: rewrites the object keywords of a JSON schema."""

from collections.abc import Iterator
from typing import Any

from engine.errors import UnsupportedParameter
from server.schemas.base import Location, path_text
from server.structured_outputs.json_schema.keywords import ANNOTATIONS, IN_PLACE
from server.structured_outputs.json_schema.kinds import ALL, Kinds, kinds_of_node
from server.structured_outputs.json_schema.numbers import sizes_of
from server.structured_outputs.json_schema.rewriting.property_counts import PropertyCounts
from server.structured_outputs.json_schema.rewriting.writer import ABSENT, Node, Schema, Writer, all_of, any_of


def write_object(writer: Writer, node: Node, location: Location, kinds: Kinds, extra: list[Schema]) -> Node:
    """Rewrite the schema's object keywords. Appends to `extra` further schemas that instances must also match."""
    written: Node = {}
    for keyword in node:
        if keyword == "patternProperties":
            _check_patterns(writer, node[keyword], (*location, keyword))
        if keyword in ("properties", "patternProperties"):
            written[keyword] = {
                name: writer.schema(schema, (*location, keyword, name), ALL) for name, schema in node[keyword].items()
            }
        elif keyword == "additionalProperties":
            written[keyword] = writer.schema(node[keyword], (*location, keyword), ALL)
        elif keyword == "required":
            written[keyword] = list(dict.fromkeys(node[keyword]))
    _unevaluated_properties(writer, node, location, written)
    sizes = sizes_of(node, "minProperties", "maxProperties")
    names = _property_names(writer, node.get("propertyNames", True), (*location, "propertyNames"))
    if sizes and isinstance(names, dict) and "properties" in names:
        if "patternProperties" in written:
            writer.drop(
                (*location, "propertyNames"), "a grammar cannot count properties if there are patternProperties"
            )
        else:
            _close_to_names(written, names["properties"])  # to make them countable
        names = True
    counts = PropertyCounts(written, sizes.get("minProperties"), sizes.get("maxProperties"))
    written.update(counts.limits)
    if counts.combined is None:
        writer.drop((*location, counts.keyword), "a grammar cannot count so many optional properties")
    else:
        extra.append(counts.combined)
    extra += _dependencies(writer, node, location, kinds)
    extra.append(names)
    return written


def _check_patterns(writer: Writer, patterns: Node, place: Location) -> None:
    """Raise UnsupportedParameter for a property pattern that a grammar cannot enforce. If it were dropped, the
    properties that it matches would get the schema of additionalProperties."""
    for pattern in patterns:
        if (construct := writer.unsupported_construct(pattern, (*place, pattern))) is not None:
            path = path_text((*place, pattern))
            raise UnsupportedParameter(
                f"{path} has {construct}, which a grammar cannot enforce; write the pattern without it", param=path
            )


def _unevaluated_properties(writer: Writer, node: Node, location: Location, written: Node) -> None:
    keyword = "unevaluatedProperties"
    if keyword not in node or "additionalProperties" in node or node[keyword] in (True, {}):
        return
    if node.keys() & set(IN_PLACE):
        writer.drop((*location, keyword), "a grammar cannot enforce it together with combined schemas")
    else:  # nothing else evaluates a property
        written["additionalProperties"] = writer.schema(node[keyword], (*location, keyword), ALL)


def _dependencies(writer: Writer, node: Node, location: Location, kinds: Kinds) -> Iterator[Schema]:
    for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
        for name, value in node.get(keyword, {}).items():
            if isinstance(value, list):
                needed: Schema = {"required": list(dict.fromkeys([name, *value]))}
            else:
                schema = writer.schema(value, (*location, keyword, name), kinds)
                needed = all_of([{"required": [name]}, schema])
            yield any_of([{"properties": {name: ABSENT}}, needed])


def _property_names(writer: Writer, node: Any, place: Location) -> Schema:
    names = _name_pattern(node)
    if names is None or any(
        writer.unsupported_construct(pattern, (*place, "pattern")) for pattern in _patterns_in(names)
    ):
        writer.drop(place, "a grammar can enforce only an enum, a pattern or a length")
        return True
    return names


def _name_pattern(node: Any) -> Schema | None:
    """Return a schema of objects whose property names all match `node`; None if a grammar cannot express it."""
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


def _patterns_in(names: Schema) -> Iterator[str]:
    """Yield the regular expressions in a schema that `_name_pattern` returned."""
    for schema in [names, *names.get("allOf", ())] if isinstance(names, dict) else ():
        yield from schema.get("patternProperties", ())


def _close_to_names(written: Node, names: Node) -> None:
    """Restrict a written object, which has no patternProperties, to properties with these names."""
    declared, others = written.get("properties", {}), written.get("additionalProperties", True)
    written["properties"] = {name: schema if name in names else ABSENT for name, schema in declared.items()}
    written["properties"] |= {name: others for name in names if name not in declared}
    written["additionalProperties"] = False
