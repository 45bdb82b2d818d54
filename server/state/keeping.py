"""KeptResponse: formats a response, and stores it before its last event is sent."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import msgspec

from server.context import ServerContext
from server.errors import ErrorReply, StorageFailed
from server.generation.generation import Generation
from server.http.error_forms import reply_to
from server.protocols.frame import StreamForm
from server.protocols.responses.answer import ResponseFormatter
from server.protocols.responses.objects import Response
from server.protocols.responses.params import ResponseParams
from server.schemas.responses import ResponsesRequest
from server.served.model import ServedModel
from server.state.history import PromptItems
from server.state.records import ITEM, RUNNING, save_response

logger = logging.getLogger(__name__)


class KeptResponse:
    """An AnswerFormatter that stores the response before it sends the last event, so that a client can retrieve the
    response as soon as the stream has ended."""

    def __init__(
        self,
        body: ResponsesRequest,
        params: ResponseParams,
        prompt: PromptItems,
        model: ServedModel,
        context: ServerContext,
        *,
        owner: str,
        request_id: str,
        is_stored: bool,
    ) -> None:
        """params: the parameters of the generation. prompt: the items of the prompt."""
        self._formatter = ResponseFormatter(body, params, model.name)
        self._prompt = prompt
        self._context = context
        self._owner = owner
        self._request_id = request_id
        self._is_stored = is_stored
        self._finishing: asyncio.Future[None] | None = None
        self.response.store = is_stored
        self.response.previous_response_id = body.previous_response_id
        if prompt.conversation_id is not None:
            self.response.conversation = {"id": prompt.conversation_id}

    @property
    def response(self) -> Response:
        return self._formatter.response

    @property
    def stream_form(self) -> StreamForm:
        return self._formatter.stream_form

    @property
    def has_ended(self) -> bool:
        return self.response.status not in RUNNING

    async def collect(self, generation: Generation) -> Response:
        response = await self._formatter.collect(generation)
        await self._finish()
        return response

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Yield the formatter's events. An error becomes the last event, unless it occurs before the first event of a
        response that is not in the background: then it is raised."""
        is_first, is_over = True, False
        try:
            async for event in self._formatter.events(generation):
                is_first = False
                if self.has_ended:
                    is_over = True
                    await self._finish()
                yield event
                if self.response.status == "queued":
                    self.response.status = "in_progress"
        except Exception as error:
            if is_over or (is_first and not self.response.background):
                raise
            event = self.broken(reply_to(error, self._request_id))
            await self.save()
            yield event

    def broken(self, reply: ErrorReply) -> bytes:
        """Return the event that ends a stream after an error; empty for a canceled response, which needs none."""
        return b"" if self.response.status == "cancelled" else self._formatter.broken(reply)

    def cancel(self) -> None:
        """Mark the response as canceled, unless it has ended. The caller must stop the run."""
        if not self.has_ended:
            self.response.status = "cancelled"

    async def save(self) -> None:
        """Store the current state of the response, unless `store` is false. Raises StorageFailed."""
        if not self._is_stored:
            return
        if not await save_response(self._context.store, self._owner, self.response, self._prompt.given):
            self.response.store = False
            logger.warning("response %s is larger than --store-max-bytes and is not stored", self.response.id)

    async def _finish(self) -> None:
        """Store the response and its items, even if the calling task is canceled meanwhile."""
        self._finishing = asyncio.ensure_future(self._store_all())
        await asyncio.shield(self._finishing)

    async def _store_all(self) -> None:
        """Store the response and its items. If that fails, the answer is still sent, with `store` set to false."""
        try:
            await self._store_response()
        except StorageFailed:  # which the store has logged
            self.response.store = False

    async def _store_response(self) -> None:
        await self.save()
        if (conversation_id := self._prompt.conversation_id) is not None:
            items = [*self._prompt.given, *msgspec.to_builtins(self.response.output)]
            if not await self._context.store.append_items(conversation_id, ITEM, items):
                logger.warning("a conversation was deleted while response %s was written to it", self.response.id)
