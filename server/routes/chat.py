"""POST /v1/chat/completions."""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from msgspec import UNSET
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.generation.choice import Finish, ScoredToken
from server.generation.generation import Generation
from server.generation.logprobs import chat_logprobs
from server.generation.prompts import chat_prompt, room_for_output
from server.http.body import Context, json_body
from server.http.sse import frame
from server.routes.generate import answer, check_num_choices, check_request, start_generation
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

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    context: Context,
    body: Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))],
) -> Response:
    """Answer a conversation, as a whole or as a stream."""
    headers = check_request(body, context)
    asked_max_tokens = body.asked_max_tokens
    check_num_choices(body, 1, context)
    num_logprobs = body.num_logprobs(context.config.max_logprobs)
    text = await context.text_model()
    info = context.client.info
    prompt = await chat_prompt(body, text, info, add_special_tokens=bool(body.add_special_tokens))
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = room_for_output(
        [prompt], info.max_model_len, asked=asked_max_tokens, param=param, default=None, prompt_param="messages"
    )
    sampling = body.sampling(info, max_tokens=max_tokens, logprobs=num_logprobs, prompt_logprobs=None)
    prediction_ids = await _prediction_ids(body, text.tokenizer, info.max_model_len)
    generation = start_generation(
        request, context, text, body, prompts=[prompt], sampling=sampling, prediction_ids=prediction_ids
    )
    form = _ChatFormat(context.model_name, text.tokenizer, body)
    return await answer(request, context, generation, form, stream=bool(body.stream), headers=headers)


async def _prediction_ids(body: ChatCompletionRequest, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    """What the client expects as the answer. Raises InvalidRequest if no answer can be so long."""
    if body.prediction is None:
        return []
    ids = await tokenizer.encode_async(body.prediction.text, add_special_tokens=False, parse_special=False)
    if len(ids) > max_model_len:
        raise InvalidRequest(
            f"the prediction has {len(ids):,} tokens; prompt and answer can have {max_model_len:,}; shorten it",
            param="prediction",
        )
    return ids


class _ChatFormat:
    """Writes one chat completion; all its chunks share one id and time."""

    def __init__(self, model: str, tokenizer: Tokenizer, body: ChatCompletionRequest) -> None:
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
