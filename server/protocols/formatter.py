"""AnswerFormatter: what a protocol is to the routes."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from server.errors import ErrorReply
from server.generation.generation import Generation
from server.protocols.frame import StreamForm


class AnswerFormatter(Protocol):
    """How one endpoint writes a generation."""

    @property
    def stream_form(self) -> StreamForm: ...

    async def collect(self, generation: Generation) -> Any:
        """The whole answer, once all choices have ended."""

    def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The stream's events, the first not before the generation's first delta."""

    def broken(self, reply: ErrorReply) -> bytes:
        """The event that ends a stream when an error breaks it off."""
