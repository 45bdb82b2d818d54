"""Operation: the parts of a route's OpenAPI description that its signature does not have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from server.errors import EventsDropped, NotStored, StorageFailed, StreamNotFound, StreamStopped

# Groups of operations, in the documents' order.
TAGS = (
    "Chats and completions",
    "Anthropic's Messages",
    "Responses",
    "Conversations",
    "Resumable streams",
    "Embeddings and scores",
    "Decisions",
    "Tokens",
    "llama-server's",
    "Ollama's",
    "Files and batches",
    "Fine-tuning",
    "Models",
    "Operations",
)

JSON, EVENTS, LINES, TEXT = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter."""

    name: str
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """OpenAPI description of one route and method.

    answers: types of responses of status 200, by media type; for a stream, of its events or lines; None for plain text.
    form: schema of a multipart body, which may have a file. example: example of the body. bodies: models that the route
    validates its body with by hand. errors: errors in addition to those that all routes, or all with a body, have.
    unready: type of 503 responses that are not errors.
    """

    answers: Mapping[str, Any]
    form: Mapping[str, Any] | None = None
    example: Mapping[str, Any] | None = None
    bodies: Sequence[type[BaseModel]] = ()
    errors: Sequence[type[Exception]] = ()
    unready: Any = None
    query: Sequence[Query] = ()
    has_end_mark: bool = False  # the stream's last data is [DONE]
    has_constraints: bool = False  # the body also takes the fields of structured outputs


PAGE = (
    Query("after", {"type": "string"}, "Begin after the item with this id."),
    Query("limit", {"type": "integer", "minimum": 1, "maximum": 100}, "Maximum number (default: 20)."),
    Query("order", {"enum": ["asc", "desc"]}, "Order by time (default: desc, newest first)."),
)
STORED_ERRORS = (NotStored, StorageFailed)
RESUMING_ERRORS = (StreamNotFound, EventsDropped, StreamStopped)
