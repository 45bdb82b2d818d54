"""Work: a prepared request that is not computed yet. A route calls `respond`, a line of a batch `collect`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from engine.protocol import PoolingOutput
from server.generation.generation import Generation
from server.generation.params.generation_params import GenerationParams
from server.http.body import context_of, json_response
from server.http.disconnect import until_disconnect
from server.http.resume import resumable
from server.http.sse import EventStream, error_event, generated
from server.pooling.computing import pool
from server.pooling.encoding import EncodedInputs
from server.protocols.frame import AnswerFormatter
from server.served.model import ServedModel


class Work(Protocol):
    """A prepared request. headers: the response headers known so far, such as the list of ignored fields."""

    @property
    def headers(self) -> dict[str, str]: ...

    async def respond(self, request: Request) -> Response:
        """Compute the answer, and return it as an HTTP response, whole or streamed."""

    async def collect(self) -> Any:
        """Wait until the engine may take another line of a batch; then compute the answer, and return it whole."""


@dataclass(frozen=True, slots=True)
class GenerationWork:
    """A generation to run. protocol_headers: response headers of the protocol, added to `params.headers`."""

    model: ServedModel
    params: GenerationParams
    formatter: AnswerFormatter
    protocol_headers: dict[str, str] = field(default_factory=dict)
    is_stream: bool = field(kw_only=True)
    is_resumable: bool = field(default=False, kw_only=True)

    @property
    def headers(self) -> dict[str, str]:
        return {**self.params.headers, **self.protocol_headers}

    async def respond(self, request: Request) -> Response:
        generation = Generation(self.model, self.params)
        if self.is_resumable:
            return await resumable(request, generation, self.formatter, self.headers)
        if self.is_stream:
            return EventStream(
                generated(generation, self.formatter),
                self.formatter.stream_form,
                error_event(self.formatter, request.state.request_id),
                context_of(request).config,
                headers=self.headers,
                late_headers=lambda: generation.headers,
            )
        async with generation:
            answer = await until_disconnect(self.formatter.collect(generation), request.receive)
        return json_response(answer, {**self.headers, **generation.headers})

    async def collect(self) -> Any:
        room = self.model.client.batch_lane.room(self.params.num_sequences)
        async with room, Generation(self.model, self.params) as generation:
            return await self.formatter.collect(generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingWork:
    """Tokenized inputs for a pooling model. write: builds the answer from the outputs and the number of tokens."""

    model: ServedModel
    inputs: EncodedInputs
    write: Callable[[list[PoolingOutput], int], Awaitable[Any]]
    headers: dict[str, str]

    async def respond(self, request: Request) -> Response:
        return json_response(await until_disconnect(self._computed(), request.receive), self.headers)

    async def _computed(self) -> Any:
        return await self.write(await pool(self.model, self.inputs), self.inputs.num_tokens)

    async def collect(self) -> Any:
        async with self.model.client.batch_lane.room():
            outputs = await pool(self.model, self.inputs)
        return await self.write(outputs, self.inputs.num_tokens)


@dataclass(frozen=True, slots=True)
class FinishedWork:
    """An answer that needs no engine, such as a number of tokens."""

    answer: Any
    headers: dict[str, str]

    async def respond(self, _request: Request) -> Response:
        return json_response(self.answer, self.headers)

    async def collect(self) -> Any:
        return self.answer
