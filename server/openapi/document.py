"""openapi_document: the description of all routes in OpenAPI 3.1."""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel

from engine.errors import InvalidRequest
from server.errors import (
    FileTooLarge,
    ForeignName,
    HeadersTooLarge,
    InvalidApiKey,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    TooManyConnections,
)
from server.openapi.operation import EVENTS, JSON, LINES, TAGS, Operation
from server.openapi.responses import HEADERS, error_answers, rate_header_references
from server.openapi.schemas import AnswerSchemas, Schema, body_schemas
from server.structured_outputs.fields import StructuredFields

FORM = "multipart/form-data"

_EVERY = (InvalidRequest, HeadersTooLarge, Exception)
_OF_BODIES = (RequestTimeout, RequestTooLarge)
_OF_FORMS = (RequestTimeout, FileTooLarge)
_OF_OTHERS_THAN_PROBES = (InvalidApiKey, ForeignName, TooManyConnections)
_OF_REQUESTS = (RateLimited,)  # errors of requests that count for a key
_EACH = {EVENTS: "each event", LINES: "each line"}


def operations(routes: Iterable[Any]) -> Iterator[tuple[str, str, APIRoute]]:
    """Yield method, path and route of each route that is described, by their groups. HEAD is left out beside GET."""
    described = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    for route in sorted(described, key=lambda route: TAGS.index(str(route.tags[0]))):
        path = route.path.replace(":path", "")
        yield from ((method, path, route) for method in sorted((route.methods or set()) - {"HEAD"}))


def body_models(route: APIRoute) -> list[type[BaseModel]]:
    """Return the types that the route's dependencies read its body as."""
    found = (getattr(dependency.call, "body_model", None) for dependency in route.dependant.dependencies)
    return [model for model in found if model is not None]


def openapi_document(
    routes: Iterable[Any],
    described_as: Mapping[str, Operation],
    *,
    open_paths: Iterable[str] = (),
    root_path: str = "",
) -> dict[str, Any]:
    """Describe the routes. described_as: their operations, by method and path. open_paths: paths that need no key.
    root_path: what a proxy strips. Raises KeyError for a route without an operation."""
    described = [(method, path, route, described_as[f"{method} {path}"]) for method, path, route in operations(routes)]
    bodies, components = body_schemas(
        [
            *(model for _, _, route, operation in described for model in _models(route, operation)),
            StructuredFields,
        ]
    )
    answers = AnswerSchemas(components)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, route, operation in described:
        paths.setdefault(path, {})[method.lower()] = _operation(
            path, route, operation, bodies, answers, is_open=path in open_paths, is_request=method == "POST"
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace",
            "version": importlib.metadata.version("headrace"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root_path or "/"}],
        "security": [{"bearer": []}, {"x-api-key": []}, {}],
        "paths": paths,
        "components": {
            "headers": dict(HEADERS),
            "schemas": dict(sorted({**components, **answers.components}.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _models(route: APIRoute, operation: Operation) -> list[type[BaseModel]]:
    return [*body_models(route), *operation.bodies]


def _operation(
    path: str,
    route: APIRoute,
    operation: Operation,
    bodies: Mapping[type[BaseModel], Schema],
    answers: AnswerSchemas,
    *,
    is_open: bool,
    is_request: bool,
) -> dict[str, Any]:
    """Describe one operation. is_request: whether it counts as a request of its key."""
    described: dict[str, Any] = {
        "operationId": route.name,
        "tags": list(route.tags),
        "summary": (route.description or route.name).partition("\n")[0],
        "responses": _responses(path, route, operation, answers, is_open=is_open, is_request=is_request),
    }
    if parameters := [*_path_parameters(path), *_query_parameters(operation)]:
        described["parameters"] = parameters
    if body := _request_body(_models(route, operation), operation, bodies):
        described["requestBody"] = {"required": True, "content": body}
    if is_open:
        described["security"] = []
    return described


def _responses(
    path: str, route: APIRoute, operation: Operation, answers: AnswerSchemas, *, is_open: bool, is_request: bool
) -> dict[str, Any]:
    errors = [
        *_EVERY,
        *operation.errors,
        *(_OF_FORMS if operation.form is not None else _OF_BODIES if _models(route, operation) else ()),
        *(() if is_open else _OF_OTHERS_THAN_PROBES),
        *(_OF_REQUESTS if is_request else ()),
    ]
    content = {
        media: {"schema": _answer_schema(media, kind, operation, answers)} for media, kind in operation.answers.items()
    }
    streamed = [
        f"As {media}, the schema is that of {_EACH[media]}; an error that breaks it off is one too, as of a 500."
        for media in operation.answers
        if media in _EACH
    ]
    responses: dict[str, Any] = {
        "200": {"description": " ".join(["The answer.", *streamed]), "content": content},
        **error_answers(errors, path, answers),
    }
    for status in ("200", "429") if is_request else ():
        responses[status]["headers"] = rate_header_references(path)
    if operation.unready is not None:
        unready = {JSON: {"schema": answers.of(operation.unready)}}
        responses["503"] = {"description": "Not now; the body says why, and how far it is.", "content": unready}
    return responses


def _request_body(
    models: list[type[BaseModel]], operation: Operation, bodies: Mapping[type[BaseModel], Schema]
) -> dict[str, Any]:
    """Return the schema and example of the body by media type."""
    if operation.form is not None:
        return {FORM: {"schema": dict(operation.form)}}
    if not models:
        return {}
    schema = _body_schema([bodies[model] for model in models])
    if operation.has_constraints:
        schema = {"allOf": [schema, bodies[StructuredFields]]}
    return {JSON: {"schema": schema, "example": operation.example}}


def _answer_schema(media: str, kind: Any, operation: Operation, answers: AnswerSchemas) -> Schema:
    """Return the schema of an answer.

    An event is an object whose data is JSON, as OpenAPI 3.2 describes the items of streams.
    """
    text: Schema = {"type": "string"}
    if media != EVENTS:
        return text if kind is None else answers.of(kind)
    if kind is not None:
        text |= {"contentMediaType": JSON, "contentSchema": answers.of(kind)}
    if operation.has_end_mark:
        text = {"anyOf": [text, {"const": "[DONE]"}]}
    return {"type": "object", "properties": {"data": text}, "required": ["data"]}


def _body_schema(references: list[Schema]) -> Schema:
    return references[0] if len(references) == 1 else {"anyOf": references}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": query.name, "in": "query", "description": query.description, "schema": dict(query.schema)}
        for query in operation.query
    ]
