"""Operation: the parts of a route's description that its signature does not have."""

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
    """A parameter of the query."""

    name: str
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Description of one operation.

    answers: of status 200, by media type; for a stream, the type of its events or lines. None is plain text. form: the
    schema of a multipart body, which may have a file. example: of the body. bodies: types of a body that the route
    reads by hand. errors: in addition to those of every route, and of every route with a body. unready: the type of 503
    answers that are no errors.
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
