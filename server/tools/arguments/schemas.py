"""Schemas of arguments, and the values between tags, which have no JSON quotes: their schema decides their type."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from server.tools.format import Schema
from server.tools.reading.json_reader import json_of

_MAX_REFERENCES = 8  # that are followed from one schema, since references may be circular
OUTSIDE = frozenset({"$defs", "definitions", "x-guidance"})  # keywords that do not restrict the value


def schema_of(names: Collection[str], name: str) -> Schema:
    """Return the schema of the arguments of tool `name`; True if `names` does not map to schemas."""
    schema = names[name] if isinstance(names, Mapping) else True
    return object_schema(schema) if isinstance(schema, Mapping | bool) else True


def property_schema(schema: Schema, key: str) -> Schema:
    """Return the schema of one argument, with the definitions that its references need."""
    if isinstance(schema, bool):
        return True
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or key not in properties:
        extra = schema.get("additionalProperties", True)
        found = extra if isinstance(extra, Mapping | bool) else True
    else:
        found = properties[key]
    return True if isinstance(found, bool) else schema_with_definitions(schema, found)


def schema_with_definitions(root: Schema, schema: Schema) -> Schema:
    """Return `schema`, a part of `root`, with the definitions that its references need. A schema that is only a
    reference is replaced by its definition."""
    for _ in range(_MAX_REFERENCES):
        found = _referenced_schema(root, schema)
        if found is None:
            break
        schema = found
    if isinstance(schema, bool) or isinstance(root, bool):
        return schema
    return {**{name: root[name] for name in ("$defs", "definitions") if name in root}, **schema}


def object_schema(schema: Schema) -> Schema:
    """Resolve an object's schema; its `properties` then include names that only `required` lists."""
    schema = schema_with_definitions(schema, schema)
    if isinstance(schema, bool):
        return schema
    given, required, extra = (schema.get(key) for key in ("properties", "required", "additionalProperties"))
    is_empty = extra is False and "patternProperties" not in schema
    if not isinstance(given, Mapping) and not required and not is_empty:
        return schema
    properties = {key: value for key, value in (given or {}).items() if value is not False}
    properties |= {key: True if extra is None else extra for key in required or () if key not in properties}
    return {**schema, "properties": properties}


def constants_of(schema: Schema) -> list[Any]:
    """Return the constants (const, enum) that the schema is limited to; an empty list if it is not."""
    return _constants_of(schema, schema, _MAX_REFERENCES)


def value_text(value: object) -> str:
    """Return a value as written between tags: a string without quotes, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def types_of(schema: Schema) -> frozenset[str]:
    """Return the JSON types that the schema allows; an empty set if it states none, which allows all."""
    return _types_of(schema, schema, _MAX_REFERENCES)


def json_value(text: str, schema: Schema) -> str:
    """Return a value between tags as JSON: as a string if the schema allows only strings or `text` is not JSON of an
    allowed type, else as `text` itself."""
    types = types_of(schema)
    if types != {"string"} and (value := json_of(text)) is not None:
        kind = _kind_of(value)
        if not types or _fits(kind, types) or "string" not in types:
            return value
    return json.dumps(text, ensure_ascii=False)


def _constants_of(schema: Schema, root: Schema, max_references: int) -> list[Any]:
    if isinstance(schema, bool) or max_references == 0:
        return []
    if "const" in schema or "enum" in schema:
        types = schema.get("type", ())
        allowed = {types} if isinstance(types, str) else set(types)
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return [value for value in values if not allowed or _fits(_kind_of(json.dumps(value)), allowed)]
    if (found := _referenced_schema(root, schema)) is not None:
        return _constants_of(found, root, max_references - 1)
    if isinstance(choices := schema.get("anyOf"), list):
        lists = [
            [None]
            if isinstance(choice, Mapping) and choice.get("type") == "null"
            else _constants_of(choice, root, max_references - 1)
            for choice in choices
        ]
        return [value for values in lists for value in values] if all(lists) else []
    return []


def _fits(kind: str, types: Collection[str]) -> bool:
    return kind in types or (kind == "integer" and "number" in types)


def _referenced_schema(root: Schema, schema: Schema) -> Schema | None:
    """Return the schema that a $ref, or an allOf of one schema, stands for; None for other schemas."""
    if isinstance(schema, bool):
        return None
    keywords = schema.keys() - OUTSIDE - {"type"}
    if keywords == {"$ref"}:
        found = _definition(root, str(schema["$ref"]))
    elif keywords == {"allOf"} and len(schema["allOf"]) == 1:
        found = schema["allOf"][0]
    else:
        return None
    # A reference to an object may repeat its type.
    return {"type": schema["type"], **found} if isinstance(found, Mapping) and "type" in schema else found


def _types_of(schema: Schema, root: Schema, max_references: int) -> frozenset[str]:
    if isinstance(schema, bool) or max_references == 0:
        return frozenset()
    stated = schema.get("type")
    if isinstance(stated, str):
        return frozenset((stated,))
    if isinstance(stated, list):
        return frozenset(stated)
    if constants := constants_of(schema):
        return frozenset(_kind_of(json.dumps(value)) for value in constants)
    if (found := _referenced_schema(root, schema) or _definition(root, str(schema.get("$ref")))) is not None:
        return _types_of(found, root, max_references - 1)
    for alternatives in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(alternatives), list):
            kinds = [_types_of(choice, root, max_references - 1) for choice in choices]
            return frozenset().union(*kinds) if all(kinds) else frozenset()
    return frozenset()


def _definition(root: Schema, reference: str) -> Schema | None:
    """Return the schema that "#/$defs/NAME" refers to."""
    _, _, name = reference.rpartition("/")
    for place in ("$defs", "definitions"):
        definitions = root.get(place) if isinstance(root, Mapping) else None
        if isinstance(definitions, Mapping) and name in definitions:
            found = definitions[name]
            return found if isinstance(found, Mapping | bool) else None
    return None


def _kind_of(value: str) -> str:
    """Return the name of a JSON text's type, as in a schema."""
    if value[0] in '"{[tfn':
        return {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}[value[0]]
    return "number" if set(value) & set(".eE") else "integer"
