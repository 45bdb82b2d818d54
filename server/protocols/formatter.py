"""AnswerFormatter: the interface between a protocol and the endpoints."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from server.errors import ErrorReply
from server.generation.generation import Generation
from server.protocols.frame import StreamForm


class AnswerFormatter(Protocol):
    """Writes the generation of one request."""

    @property
    def stream_form(self) -> StreamForm: ...

    async def collect(self, generation: Generation) -> Any:
        """Return the whole answer, when all choices have ended."""

    def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Yield the events of the stream. The first event comes after the generation's first delta."""

    def broken(self, reply: ErrorReply) -> bytes:
        """Return the event that ends a stream after an error."""
