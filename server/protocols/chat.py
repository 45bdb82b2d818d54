"""ChatFormatter: a generation as OpenAI's chat completion."""

import time
import uuid
from collections.abc import AsyncGenerator

from msgspec import UNSET

from server.generation.choice import Finish, ScoredToken
from server.generation.generation import Generation
from server.protocols.frame import frame
from server.protocols.logprobs import chat_logprobs
from server.schemas.chat import ChatCompletionRequest
from server.schemas.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Usage,
)
from server.text.tokenizer import Tokenizer


class ChatFormatter:
    """Writes one chat completion; all its chunks share one id and time."""

    def __init__(self, body: ChatCompletionRequest, model: str, tokenizer: Tokenizer) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._tokenizer = tokenizer
        self._has_logprobs = bool(body.logprobs)
        self._include_usage = body.include_usage

    async def collect(self, generation: Generation) -> ChatCompletion:
        texts: list[list[str]] = [[] for _ in range(generation.num_choices)]
        tokens: list[list[ScoredToken]] = [[] for _ in range(generation.num_choices)]
        finishes: dict[int, Finish] = {}
        async for delta in generation:
            texts[delta.index].append(delta.text)
            tokens[delta.index] += delta.tokens
            if delta.finish is not None:
                finishes[delta.index] = delta.finish
        choices = [
            ChatChoice(
                index,
                ChatMessage(content="".join(texts[index])),
                self._logprobs(tokens[index]),
                finishes[index].reason,
                finishes[index].stop_reason,
            )
            for index in range(generation.num_choices)
        ]
        return ChatCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=generation.usage()
        )

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        is_first = True
        async for delta in generation:
            index = delta.index
            if is_first:
                is_first = False
                for each in range(generation.num_choices):
                    yield self._chunk([ChatChunkChoice(each, ChatDelta("assistant", "", None))])
            if delta.text or delta.tokens:
                logprobs = self._logprobs(delta.tokens)
                yield self._chunk([ChatChunkChoice(index, ChatDelta(content=delta.text), logprobs)])
            if (finish := delta.finish) is not None:
                yield self._chunk([ChatChunkChoice(index, ChatDelta(), None, finish.reason, finish.stop_reason)])
        if self._include_usage:
            yield self._chunk([], generation.usage())

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> bytes:
        return frame(
            ChatChunk(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=choices,
                usage=usage if self._include_usage else UNSET,
            )
        )

    def _logprobs(self, tokens: list[ScoredToken]) -> ChatLogprobs | None:
        return chat_logprobs(tokens, self._tokenizer) if self._has_logprobs else None
