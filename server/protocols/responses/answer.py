"""ResponseFormatter: formats a generation as OpenAI's response."""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from engine.protocol import FinishReason
from server.errors import ErrorReply
from server.generation.choice import ChoiceDelta, Finish
from server.generation.choice_reader import CallPiece, ChoicePiece, Content, Thought
from server.generation.generation import Generation
from server.generation.params.generation_params import GenerationParams
from server.metrics.request_record import note_response_id
from server.protocols.frame import StreamForm
from server.protocols.logprobs import LogprobsFormat
from server.protocols.responses.events import Delta, Event, ResponseEvent
from server.protocols.responses.objects import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseUsage,
    new_id,
)
from server.protocols.responses.open_items import (
    OpenCall,
    OpenCustomCall,
    OpenFunctionCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)
from server.protocols.responses.params import ResponseParams
from server.protocols.responses.text_tokens import TextTokens
from server.protocols.responses.tools import CalledTool
from server.schemas.answers import ChatLogprob, Usage
from server.schemas.responses import ResponsesRequest

RESPONSES_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"")

_PADDED = 16  # characters

_encode = msgspec.json.Encoder().encode


def event_frame(event: Event) -> bytes:
    """Return the event as server-sent event with an `event:` line for its type, as OpenAI sends it."""
    return b"event: " + event.type.encode() + b"\ndata: " + _encode(event) + b"\n\n"


class ResponseFormatter:
    """Formats one response. `response` is always its current state, with the items that have ended."""

    stream_form = RESPONSES_STREAM

    def __init__(self, body: ResponsesRequest, params: ResponseParams, model: str) -> None:
        request = params.request
        self.response = _new_response(body, params.generation, model)
        note_response_id(self.response.id)
        self._request = request
        as_token_ids = bool(request.chat.options.return_tokens_as_token_ids)
        self._format = LogprobsFormat(params.generation.tokenizer, as_token_ids=as_token_ids)
        self._has_logprobs = bool(request.chat.options.logprobs)
        self._shows_thoughts = request.chat.options.include_reasoning is not False
        self._encodes_thoughts = body.includes("reasoning.encrypted_content")
        self._open: OpenItem | None = None
        self._tokens = TextTokens(params.generation.tokenizer)
        self._numbers = count()
        self._has_started = False
        self._generation: Generation | None = None
        options = body.stream_options
        self._is_obfuscated = options is not None and options.include_obfuscation is True

    async def collect(self, generation: Generation) -> Response:
        async for _ in self._events(generation):
            pass
        return self.response

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        async for event in self._events(generation):
            yield event_frame(event)

    def broken(self, reply: ErrorReply) -> bytes:
        """Return the event that ends the stream with an error. If the stream's first events were not sent yet, they
        precede it, since clients accept no other event as the first."""
        beginning = [event_frame(self._numbered(event)) for event in self._begin_stream()]
        if self._open is not None:
            self.response.output.append(self._open.item("incomplete"))
            self._open = None
        if self._generation is not None:
            self.response.usage = _usage(self._generation.usage())
        self.response.status = "failed"
        self.response.error = ResponseError(_error_code(reply), reply.message)
        failed = ResponseEvent(type="response.failed", response=self.response)
        return b"".join([*beginning, event_frame(self._numbered(failed))])

    async def _events(self, generation: Generation) -> AsyncIterator[Event]:
        self._generation = generation
        with self._request.chat.paths.in_errors():
            async for delta in generation:
                for event in self._begin_stream():
                    yield self._numbered(event)
                for event in self._of_delta(delta):
                    yield self._numbered(event)
                if delta.finish is not None:
                    for event in self._end(delta.finish, generation.usage()):
                        yield self._numbered(event)

    def _begin_stream(self) -> Iterator[Event]:
        """Yield the stream's first events, if they were not sent yet."""
        if not self._has_started:
            self._has_started = True
            for kind in ("response.created", "response.in_progress"):
                yield ResponseEvent(type=kind, response=self.response)

    def _numbered(self, event: Event) -> Event:
        event.sequence_number = next(self._numbers)
        if self._is_obfuscated and isinstance(event, Delta):
            event.obfuscation = _padding(event.delta)
        return event

    def _of_delta(self, delta: ChoiceDelta) -> Iterator[Event]:
        self._tokens.add(delta.tokens)
        pieces = [Content(delta.text), *delta.pieces] if delta.text else delta.pieces
        has_other = False  # pieces other than content
        for piece in pieces:
            yield from self._of_piece(piece, has_other=has_other)
            has_other = has_other or not isinstance(piece, Content)
        match pieces[-1] if pieces else None:
            case Thought(text=text):
                self._tokens.pass_over(text)
            case CallPiece(name=name, arguments=arguments):
                self._tokens.pass_over(arguments or name or "")

    def _of_piece(self, piece: ChoicePiece, *, has_other: bool) -> Iterator[Event]:
        match piece:
            case Thought(text=text):
                if not self._shows_thoughts:
                    return
                if not isinstance(self._open, OpenReasoning):
                    yield from self._begin(OpenReasoning(self._next_index, is_encoded=self._encodes_thoughts))
                assert isinstance(self._open, OpenReasoning)
                yield from self._open.add(text)
            case Content(text=text):
                if not isinstance(self._open, OpenMessage):
                    yield from self._begin(OpenMessage(self._next_index))
                assert isinstance(self._open, OpenMessage)
                yield from self._open.add(text, self._logprobs(text, is_last=has_other))
            case CallPiece(name=None, arguments=arguments):
                assert isinstance(self._open, OpenCall)
                yield from self._open.add(arguments)
            case CallPiece(name=name, arguments=arguments, id=call_id):
                tool = self._request.called.get(name or "") or CalledTool(name or "")
                kind = OpenCustomCall if tool.is_custom else OpenFunctionCall
                call = kind(self._next_index, call_id or new_id("call"), tool.name, tool.namespace)
                yield from self._begin(call)
                yield from call.add(arguments)

    @property
    def _next_index(self) -> int:
        return len(self.response.output) + (self._open is not None)

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        yield from item.begin()

    def _close(self, status: str) -> Iterator[Event]:
        if self._open is not None:
            item, self._open = self._open, None
            yield from item.end(status)
            self.response.output.append(item.item(status))

    def _end(self, finish: Finish, usage: Usage) -> Iterator[Event]:
        is_cut = finish.reason is FinishReason.LENGTH
        in_call = isinstance(self._open, OpenCall)
        yield from self._close("incomplete" if finish.is_within_call or (is_cut and not in_call) else "completed")
        if not is_cut and not any(item.type != "reasoning" for item in self.response.output):
            # An empty answer is still an answer: agents take a response without a message for a turn that continues.
            yield from self._begin(OpenMessage(self._next_index))
            yield from self._close("completed")
        self.response.status = "incomplete" if is_cut else "completed"
        if is_cut:
            self.response.incomplete_details = IncompleteDetails(
                "timeout" if finish.is_timeout else "max_output_tokens"
            )
        else:
            self.response.completed_at = int(time.time())
        self.response.usage = _usage(usage)
        yield ResponseEvent(type=f"response.{self.response.status}", response=self.response)

    def _logprobs(self, text: str, *, is_last: bool) -> list[ChatLogprob]:
        if not self._has_logprobs:
            return []
        return self._format.of_chat(self._tokens.take(text, is_last=is_last)).content


def _padding(text: str) -> str:
    """Return random characters that pad the text to a multiple of _PADDED, to hide its length."""
    return secrets.token_urlsafe(_PADDED)[: _PADDED - len(text) % _PADDED]


def _error_code(reply: ErrorReply) -> str:
    """Return the error code of OpenAI's that is closest to the error."""
    if reply.status >= 500:
        return "server_error"
    return "rate_limit_exceeded" if reply.status == 429 else "invalid_prompt"


def _usage(usage: Usage) -> ResponseUsage:
    details, prompt = usage.completion_tokens_details, usage.prompt_tokens_details
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(prompt.cached_tokens, prompt.cache_write_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(0 if details is msgspec.UNSET else details.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def _new_response(body: ResponsesRequest, params: GenerationParams, model: str) -> Response:
    given = body.model_dump(exclude_unset=True)
    extra = body.model_extra or {}
    return Response(
        id=new_id("resp"),
        created_at=int(time.time()),
        model=model,
        output=[],
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        prompt_cache_key=_text(extra, "prompt_cache_key"),
        reasoning={"effort": None, "summary": None, **(given.get("reasoning") or {})},
        safety_identifier=_text(extra, "safety_identifier"),
        service_tier=params.terms.service_tier,
        temperature=params.sampling.temperature,
        text={"format": {"type": "text"}, **(given.get("text") or {})},
        tool_choice=given.get("tool_choice") or "auto",
        tools=given.get("tools") or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.sampling.top_p,
        truncation=body.truncation or "disabled",
        user=_text(extra, "user"),
        metadata=body.metadata or {},
    )


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None
