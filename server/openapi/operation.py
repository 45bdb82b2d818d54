"""Operation, Query: what a route's signature does not say, and what routes have in common."""

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
    """answers: of status 200, by media type; a stream's is what each of its events or lines is. None is plain text.

    form: the schema of a body of several parts, one of which may be a file. example: of the body. bodies: where the
    route reads its body by hand. errors: beside those that every route, and every route with a body, may answer.
    unready: what 503 is, where it is no error.
    """

    answers: Mapping[str, Any]
    form: Mapping[str, Any] | None = None
    example: Mapping[str, Any] | None = None
    bodies: Sequence[type[BaseModel]] = ()
    errors: Sequence[type[Exception]] = ()
    unready: Any = None
    query: Sequence[Query] = ()
    has_end_mark: bool = False  # the stream's last data is [DONE]
    has_constraints: bool = False  # the body takes the fields of structured outputs too


PAGE = (
    Query("after", {"type": "string"}, "Begin after the item with this id."),
    Query("limit", {"type": "integer", "minimum": 1, "maximum": 100}, "Maximum number (default: 20)."),
    Query("order", {"enum": ["asc", "desc"]}, "Order by time (default: desc, newest first)."),
)
STORED_ERRORS = (NotStored, StorageFailed)
RESUMING_ERRORS = (StreamNotFound, EventsDropped, StreamStopped)
