"""docs/api.md's generated part: the API's description (/openapi.json) as text."""

import json
from collections.abc import Iterator
from typing import Any

from server.app import ROUTERS
from server.http.middleware.auth import OPEN_PATHS
from server.openapi.document import openapi_document
from server.openapi.schemas import REF
from server.routes.docs import OPERATIONS

_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


def api_text() -> str:
    document = openapi_document(
        [route for router in ROUTERS for route in router.routes], OPERATIONS, open_paths=OPEN_PATHS
    )
    lines: list[str] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    lines += ["## Schemas", "", "A field that is not marked as required may be omitted."]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"### {name}", "", *_schema(schema)]
    return "\n".join(lines)


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {name}", "", operation["summary"], "")
    if operation.get("security") == []:
        yield from ("Needs no key.", "")
    for parameter in operation.get("parameters", []):
        described = parameter.get("description", "in the path.")
        yield from (f"- `{parameter['name']}` ({_type(parameter['schema'])}): {described}", "")
    if (body := operation.get("requestBody")) is not None:
        yield from _body(body["content"])
    answer = operation["responses"]["200"]
    kinds = [f"`{media}` ({_type(_data(content['schema']))})" for media, content in answer["content"].items()]
    yield from (f"Answers {', or '.join(kinds)}.", "")
    rows = [
        (status, next(iter(_types(response))), response["description"])
        for status, response in operation["responses"].items()
        if status != "200"
    ]
    yield from ("| status | object | when |", "| --- | --- | --- |")
    yield from (f"| {status} | {kind} | {_cell(when)} |" for status, kind, when in rows)
    yield ""


def _body(content: dict[str, Any]) -> Iterator[str]:
    ((media, described),) = content.items()
    if media != "application/json":
        yield from (f"Body: `{media}`.", "", *_schema(described["schema"]), "")
        return
    parts = described["schema"].get("allOf", [described["schema"]])
    yield from (f"Body: {', with the fields of '.join(map(_type, parts))}. For example", "")
    yield from ("```json", json.dumps(described["example"], indent=2, ensure_ascii=False), "```", "")


def _data(schema: dict[str, Any]) -> dict[str, Any]:
    """What the data of an event is, and of other answers the schema as it is."""
    data = schema.get("properties", {}).get("data", {})
    data = data.get("anyOf", [data])[0]
    found: dict[str, Any] = data.get("contentSchema", schema)
    return found


def _types(response: dict[str, Any]) -> Iterator[str]:
    yield from (_type(content["schema"]) for content in response["content"].values())


def _schema(schema: dict[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield from (schema["description"], "")
    properties = schema.get("properties", {})
    if not properties:
        yield _type({**schema, "description": None}) if "type" not in schema else f"{_type(schema)}, with no fields."
        return
    required = set(schema.get("required", []))
    yield from ("| field | type | limits |", "| --- | --- | --- |")
    for name, field in properties.items():
        limits = [*(["required"] if name in required else []), *_limits(field)]
        yield f"| `{name}` | {_cell(_type(field))} | {', '.join(limits) or '-'} |"


def _limits(schema: dict[str, Any]) -> list[str]:
    found = [text.format(f"{schema[key]:,}") for key, text in _LIMITS.items() if key in schema]
    for part in schema.get("anyOf", []):
        found += [limit for limit in _limits(part) if limit not in found]
    return found


def _type(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if (reference := schema.get("$ref")) is not None:
        name = reference.removeprefix(REF)
        return f"[{name}](#{name.lower().replace('.', '')})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            parts = [_type(part) for part in schema[key]]
            return " or ".join(dict.fromkeys(parts))
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
        case str(kind):
            return kind
    return "anything"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
