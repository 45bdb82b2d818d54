"""MessagesFormatter: formats a generation as Anthropic's message."""

import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
import pydantic_core

from engine.protocol import FinishReason
from server.errors import ErrorReply
from server.generation.choice import ChoiceDelta, Finish
from server.generation.choice_reader import CallPiece, ChoicePiece, Content, Thought
from server.generation.generation import Generation
from server.metrics.request_record import note_response_id
from server.protocols.frame import StreamForm
from server.protocols.messages.errors import error_body
from server.schemas.messages_answers import (
    BlockContent,
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentText,
    ContentThinking,
    ContentToolUse,
    DeltaContent,
    Event,
    InputJsonDelta,
    MessageAnswer,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageTokensDetails,
    MessageUsage,
    SignatureDelta,
    Stop,
    TextDelta,
    ThinkingDelta,
)

# Anthropic signs its thoughts, and clients require a text. Thoughts of this server are not signed.
SIGNATURE = "unsigned"

_encode = msgspec.json.Encoder().encode


class MessagesFormatter:
    """Formats one generation as a message, or as its events."""

    stream_form = StreamForm("text/event-stream", b'event: ping\ndata: {"type":"ping"}\n\n', b"")

    def __init__(self, model: str, request_id: str, *, is_cut_to_context: bool, omits_thoughts: bool) -> None:
        """is_cut_to_context: whether the rest of the context is smaller than max_tokens and so limits the answer."""
        self._id = f"msg_{uuid.uuid4().hex}"
        note_response_id(self._id)
        self._model = model
        self._request_id = request_id
        self._length_reason = "model_context_window_exceeded" if is_cut_to_context else "max_tokens"
        self._omits_thoughts = omits_thoughts

    async def collect(self, generation: Generation) -> MessageAnswer:
        blocks: list[tuple[ChoicePiece, list[str]]] = []  # the first piece, and the texts of all
        finish: Finish | None = None
        async for delta in generation:
            finish = delta.finish
            for piece in _pieces(delta):
                if not blocks or not _continues(blocks[-1][0], piece):
                    blocks.append((piece, []))
                blocks[-1][1].append(_text_of(piece))
        assert finish is not None
        stop = self._stop(finish, has_calls=any(isinstance(first, CallPiece) for first, _ in blocks))
        message = self._message(generation, [self._content(first, "".join(texts)) for first, texts in blocks])
        message.stop_reason, message.stop_sequence = stop.stop_reason, stop.stop_sequence
        return message

    def _content(self, first: ChoicePiece, text: str) -> BlockContent:
        match _opening(first):
            case ContentText():
                return ContentText(text)
            case ContentThinking():
                return ContentThinking("" if self._omits_thoughts else text, SIGNATURE)
            case ContentToolUse() as call:
                return ContentToolUse(call.id, call.name, _input_of(text))

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        index = -1
        opened: ChoicePiece | None = None  # the first piece of the open block
        has_started = has_calls = False
        async for delta in generation:
            if not has_started:
                has_started = True
                yield _frame(MessageStart(self._message(generation, [])))
            for piece in _pieces(delta):
                if opened is None or not _continues(opened, piece):
                    for event in _closing(opened, index):
                        yield _frame(event)
                    index, opened = index + 1, piece
                    has_calls = has_calls or isinstance(piece, CallPiece)
                    yield _frame(BlockStart(index, _opening(piece)))
                if (content := self._delta(piece)) is not None:
                    yield _frame(BlockDelta(index, content))
            if (finish := delta.finish) is not None:
                for event in _closing(opened, index):
                    yield _frame(event)
                yield _frame(MessageDelta(self._stop(finish, has_calls=has_calls), _usage(generation)))
                yield _frame(MessageStop())

    def _delta(self, piece: ChoicePiece) -> DeltaContent | None:
        match piece:
            case Content(text=text):
                return TextDelta(text)
            case Thought(text=text):
                return None if self._omits_thoughts else ThinkingDelta(text)
            case CallPiece(arguments=arguments):
                return InputJsonDelta(arguments) if arguments else None

    def broken(self, reply: ErrorReply) -> bytes:
        return b"event: error\ndata: " + error_body(reply, self._request_id) + b"\n\n"

    def _message(self, generation: Generation, content: list[BlockContent]) -> MessageAnswer:
        return MessageAnswer(id=self._id, model=self._model, content=content, usage=_usage(generation))

    def _stop(self, finish: Finish, *, has_calls: bool) -> Stop:
        if finish.reason is FinishReason.LENGTH:
            return Stop(self._length_reason, None)
        if isinstance(finish.stop_reason, str):
            return Stop("stop_sequence", finish.stop_reason)
        return Stop("tool_use" if has_calls and not finish.is_within_call else "end_turn", None)


def _pieces(delta: ChoiceDelta) -> Iterator[ChoicePiece]:
    if delta.text:  # an answer without a reader
        yield Content(delta.text)
    yield from delta.pieces


def _continues(first: ChoicePiece, piece: ChoicePiece) -> bool:
    """Whether `piece` belongs to the block that started with `first`."""
    match first, piece:
        case (Content(), Content()) | (Thought(), Thought()):
            return True
        case (CallPiece(index=index), CallPiece(index=other, name=None)):
            return index == other
    return False


def _text_of(piece: ChoicePiece) -> str:
    return piece.arguments if isinstance(piece, CallPiece) else piece.text


def _opening(piece: ChoicePiece) -> BlockContent:
    """Return the content block that `piece` opens, still empty."""
    match piece:
        case Content():
            return ContentText()
        case Thought():
            return ContentThinking()
        case CallPiece(id=call_id, name=name):
            return ContentToolUse(_tool_use_id(call_id or ""), name or "")


def _tool_use_id(call_id: str) -> str:
    """Return a server-made call id with Anthropic's prefix. A model-made id stays, since the model reads it again."""
    return f"toolu_{call_id.removeprefix('call_')}" if call_id.startswith("call_") else call_id


def _closing(opened: ChoicePiece | None, index: int) -> Iterator[Event]:
    if isinstance(opened, Thought):
        yield BlockDelta(index, SignatureDelta(SIGNATURE))
    if opened is not None:
        yield BlockStop(index)


def _input_of(arguments: str) -> dict[str, Any]:
    """Return the parsed arguments of a call. A value that is cut off is left out, as by Anthropic's clients."""
    try:
        value = pydantic_core.from_json(arguments or "{}", allow_partial=True)
    except ValueError:  # a call that the model wrote as text, outside of the grammar
        return {}
    return value if isinstance(value, dict) else {}


def _usage(generation: Generation) -> MessageUsage:
    usage = generation.usage()
    cached = usage.prompt_tokens_details.cached_tokens
    answer = MessageUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
    )
    if (details := usage.completion_tokens_details) is not msgspec.UNSET:
        answer.output_tokens_details = MessageTokensDetails(details.reasoning_tokens)
    return answer


def _frame(event: Event) -> bytes:
    return f"event: {event.__struct_config__.tag}\ndata: ".encode() + _encode(event) + b"\n\n"
