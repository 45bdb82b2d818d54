"""openapi_document: describes all routes as an OpenAPI 3.1 document."""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    RequestInProgress,
    RequestTimeout,
    RequestTooLarge,
    TooManyConnections,
)
from server.openapi.operation import EVENTS, JSON, LINES, TAGS, Operation
from server.openapi.responses import RATE_HEADERS, error_answers, rate_header_references
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
    """Yield method, path and route of each documented route, in the order of tags. HEAD is left out."""
    described = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    for route in sorted(described, key=lambda route: TAGS.index(str(route.tags[0]))):
        path = route.path.replace(":path", "")
        yield from ((method, path, route) for method in sorted((route.methods or set()) - {"HEAD"}))


def body_models(route: APIRoute) -> list[type[BaseModel]]:
    """Return the models that the route's dependencies validate the body with."""
    found = (getattr(dependency.call, "body_model", None) for dependency in route.dependant.dependencies)
    return [model for model in found if model is not None]


def openapi_document(
    routes: Iterable[Any],
    described_as: Mapping[str, Operation],
    *,
    open_paths: Iterable[str] = (),
    root_path: str = "",
) -> dict[str, Any]:
    """Return the OpenAPI document. described_as: operations by method and path. open_paths: paths that need no key.
    root_path: prefix that a proxy strips. Raises KeyError for a route without an operation."""
    described = [
        _Described(method, path, route, described_as[f"{method} {path}"]) for method, path, route in operations(routes)
    ]
    bodies, components = body_schemas([*(model for each in described for model in each.models), StructuredFields])
    answers = AnswerSchemas(components)
    paths: dict[str, dict[str, Any]] = {}
    for each in described:
        is_open = each.path in open_paths
        paths.setdefault(each.path, {})[each.method.lower()] = each.document(bodies, answers, is_open=is_open)
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
            "headers": dict(RATE_HEADERS),
            "schemas": dict(sorted({**components, **answers.components}.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


@dataclass(frozen=True, slots=True)
class _Described:
    """A route with one of its methods, and the operation that describes it."""

    method: str
    path: str
    route: APIRoute
    operation: Operation

    @property
    def models(self) -> list[type[BaseModel]]:
        """Models of the request's body."""
        return [*body_models(self.route), *self.operation.bodies]

    def document(
        self, bodies: Mapping[type[BaseModel], Schema], answers: AnswerSchemas, *, is_open: bool
    ) -> dict[str, Any]:
        described: dict[str, Any] = {
            "operationId": self.route.name,
            "tags": list(self.route.tags),
            "summary": (self.route.description or self.route.name).partition("\n")[0],
            "responses": self._responses(answers, is_open=is_open),
        }
        if parameters := [*_path_parameters(self.path), *_query_parameters(self.operation), *_headers(self.operation)]:
            described["parameters"] = parameters
        if body := self._request_body(bodies):
            described["requestBody"] = {"required": True, "content": body}
        if is_open:
            described["security"] = []
        return described

    def _responses(self, answers: AnswerSchemas, *, is_open: bool) -> dict[str, Any]:
        operation = self.operation
        is_request = self.method == "POST"  # counts as a request of its key
        errors = [
            *_EVERY,
            *operation.errors,
            *(_OF_FORMS if operation.form is not None else _OF_BODIES if self.models else ()),
            *(() if is_open else _OF_OTHERS_THAN_PROBES),
            *(_OF_REQUESTS if is_request else ()),
        ]
        content = {
            media: {"schema": _answer_schema(media, kind, operation, answers)}
            for media, kind in operation.answers.items()
        }
        streamed = [
            f"As {media}, the schema is that of {_EACH[media]}; an error that breaks it off is one too, as of a 500."
            for media in operation.answers
            if media in _EACH
        ]
        responses: dict[str, Any] = {
            "200": {"description": " ".join(["The answer.", *streamed]), "content": content},
            **error_answers(errors, self.path, answers),
        }
        for status in ("200", "429") if is_request else ():
            responses[status]["headers"] = rate_header_references(self.path)
        if operation.unready is not None:
            unready = {JSON: {"schema": answers.of(operation.unready)}}
            responses["503"] = {"description": "Not now; the body says why, and how far it is.", "content": unready}
        return responses

    def _request_body(self, bodies: Mapping[type[BaseModel], Schema]) -> dict[str, Any]:
        """Return the schema and example of the body by media type."""
        if self.operation.form is not None:
            return {FORM: {"schema": dict(self.operation.form)}}
        references = [bodies[model] for model in self.models]
        if not references:
            return {}
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        if self.operation.has_constraints:
            schema = {"allOf": [schema, bodies[StructuredFields]]}
        return {JSON: {"schema": schema, "example": self.operation.example}}


def _answer_schema(media: str, kind: Any, operation: Operation, answers: AnswerSchemas) -> Schema:
    """Return the schema of a response. An event is an object whose data is JSON, as in OpenAPI 3.2's streams."""
    text: Schema = {"type": "string"}
    if media != EVENTS:
        return text if kind is None else answers.of(kind)
    if kind is not None:
        text |= {"contentMediaType": JSON, "contentSchema": answers.of(kind)}
    if operation.has_end_mark:
        text = {"anyOf": [text, {"const": "[DONE]"}]}
    return {"type": "object", "properties": {"data": text}, "required": ["data"]}


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


def _headers(operation: Operation) -> list[dict[str, Any]]:
    """Return the parameter Idempotency-Key of operations that refuse a repeated request while the first one runs."""
    if RequestInProgress not in operation.errors:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 255}
    description = "A repeated request with the same key and body gets the first one's answer, for an hour."
    return [{"name": "Idempotency-Key", "in": "header", "description": description, "schema": schema}]
