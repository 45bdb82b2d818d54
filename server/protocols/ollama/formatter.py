"""OllamaFormatter: formats a generation as the lines of /api/chat or /api/generate, or as one response."""

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from engine.protocol import FinishReason
from server.errors import ErrorReply
from server.generation.choice import Finish, ScoredToken
from server.generation.choice_reader import CallPiece, ChoicePiece, Content, Thought
from server.generation.generation import Generation
from server.protocols.logprobs import LogprobsFormat
from server.protocols.ollama.lines import OLLAMA_STREAM, error_object, line
from server.schemas.ollama_answers import (
    OllamaAnswer,
    OllamaAnswerCall,
    OllamaAnswerMessage,
    OllamaChatAnswer,
    OllamaFunction,
    OllamaGenerateAnswer,
)
from server.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Part:
    """Content of one line, or of a whole response."""

    content: str = ""
    thinking: str = ""
    calls: list[OllamaAnswerCall] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)

    def add(self, other: "Part") -> None:
        self.content += other.content
        self.thinking += other.thinking
        self.calls += other.calls
        self.tokens += other.tokens

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls or self.tokens)


# Takes a part, the model's name, and whether the part is the last.
AnswerWriter = Callable[[Part, str, bool], OllamaAnswer]


def chat_answer(part: Part, model: str, is_done: bool) -> OllamaChatAnswer:
    message = OllamaAnswerMessage(content=part.content, thinking=part.thinking or UNSET, tool_calls=part.calls or UNSET)
    return OllamaChatAnswer(model=model, created_at=timestamp(), done=is_done, message=message)


def generate_answer(part: Part, model: str, is_done: bool) -> OllamaGenerateAnswer:
    return OllamaGenerateAnswer(
        model=model,
        created_at=timestamp(),
        done=is_done,
        response=part.content,
        thinking=part.thinking or UNSET,
    )


def timestamp(seconds: float | None = None) -> str:
    """Return the time in RFC 3339, in UTC. seconds: since the epoch; None is now."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


class OllamaFormatter:
    """Formats one generation. A tool call is sent whole, in one line, since its arguments are a JSON object."""

    stream_form = OLLAMA_STREAM

    def __init__(
        self, write: AnswerWriter, model: str, tokenizer: Tokenizer, arrival_s: float, *, has_logprobs: bool
    ) -> None:
        """model: the model's name as the client wrote it. arrival_s: arrival of the request by time.monotonic()."""
        self._write = write
        self._model = model
        self._logprobs = LogprobsFormat(tokenizer)
        self._arrival_s = arrival_s
        self._has_logprobs = has_logprobs
        self._first_token_s: float | None = None
        self._calls = _Calls()

    async def collect(self, generation: Generation) -> OllamaAnswer:
        whole = Part()
        finish = None
        async for part, part_finish in self._parts(generation):
            whole.add(part)
            finish = part_finish
        assert finish is not None
        return self._last(whole, finish, generation)

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        async for part, finish in self._parts(generation):
            if part:
                yield line(self._answer(part, is_done=False))
            if finish is not None:
                yield line(self._last(Part(), finish, generation))

    def broken(self, reply: ErrorReply) -> bytes:
        return error_object(reply) + b"\n"

    async def _parts(self, generation: Generation) -> AsyncGenerator[tuple[Part, Finish | None], None]:
        async for delta in generation:
            if self._first_token_s is None:
                self._first_token_s = time.monotonic()
            part = Part(content=delta.text, tokens=list(delta.tokens))
            for piece in delta.pieces:
                self._add(piece, part)
            if delta.finish is not None:
                part.calls += self._calls.end(is_cut_off=delta.finish.is_within_call)
            yield part, delta.finish

    def _add(self, piece: ChoicePiece, part: Part) -> None:
        match piece:
            case Thought(text=text):
                part.thinking += text
            case Content(text=text):
                part.content += text
            case CallPiece():
                part.calls += self._calls.push(piece)

    def _answer(self, part: Part, *, is_done: bool) -> OllamaAnswer:
        answer = self._write(part, self._model, is_done)
        if self._has_logprobs and part.tokens:
            answer.logprobs = self._logprobs.of_chat(part.tokens).content
        return answer

    def _last(self, part: Part, finish: Finish, generation: Generation) -> OllamaAnswer:
        assert self._first_token_s is not None
        answer = self._answer(part, is_done=True)
        usage, now = generation.usage(), time.monotonic()
        answer.done_reason = "length" if finish.reason is FinishReason.LENGTH else "stop"
        answer.total_duration = _nanoseconds(now - self._arrival_s)
        answer.load_duration = 0
        answer.prompt_eval_count = usage.prompt_tokens
        queue_s = generation.choices[0].queue_s
        answer.prompt_eval_duration = _nanoseconds(self._first_token_s - self._arrival_s - queue_s)
        answer.eval_count = usage.completion_tokens
        answer.eval_duration = _nanoseconds(now - self._first_token_s)
        return answer


class _Calls:
    """Assembles tool calls from their pieces."""

    def __init__(self) -> None:
        self._open: OllamaAnswerCall | None = None
        self._arguments: list[str] = []

    def push(self, piece: CallPiece) -> list[OllamaAnswerCall]:
        """Add a piece of a call. If it starts another call, return the one before, which has ended."""
        ended = []
        if piece.name is not None:
            ended = self.end()
            self._open = OllamaAnswerCall(piece.id or "", OllamaFunction(piece.index, piece.name, msgspec.Raw(b"{}")))
        self._arguments.append(piece.arguments)
        return ended

    def end(self, *, is_cut_off: bool = False) -> list[OllamaAnswerCall]:
        """Return the open call. A call whose arguments are not a JSON object, such as one cut off, is left out."""
        call, arguments = self._open, "".join(self._arguments)
        self._open, self._arguments = None, []
        if call is None or is_cut_off or not _is_object(arguments := arguments.strip() or "{}"):
            return []
        call.function.arguments = msgspec.Raw(arguments.encode())
        return [call]


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _nanoseconds(seconds: float) -> int:
    """Return the duration in nanoseconds, at least 1, since clients divide by it."""
    return max(1, round(seconds * 1e9))
