"""POST /v1/completions."""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from msgspec import UNSET
from starlette.responses import Response

from server.generation.choice import ScoredToken
from server.generation.generation import Generation
from server.generation.logprobs import text_logprobs
from server.generation.prompts import room_for_output, text_prompts
from server.http.body import Context, json_body
from server.http.sse import frame
from server.routes.generate import answer, check_num_choices, check_request, start_generation
from server.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.schemas.responses import TextChoice, TextCompletion, TextLogprobs, Usage
from server.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/completions")
async def create_completion(
    request: Request,
    context: Context,
    body: Annotated[CompletionRequest, Depends(json_body(CompletionRequest))],
) -> Response:
    """Continue one or several texts, as a whole or as a stream."""
    headers = check_request(body, context)
    body.check(context.config.max_logprobs)
    echo = bool(body.echo)
    text = await context.text_model()
    info = context.client.info
    check_num_choices(body, len(body.prompt), context)
    prompts = await text_prompts(
        body.prompt, text, info, add_special_tokens=body.add_special_tokens is not False, echo=echo
    )
    sampling = body.sampling(
        info,
        max_tokens=room_for_output(
            prompts,
            info.max_model_len,
            asked=body.max_tokens,
            param="max_tokens",
            default=DEFAULT_MAX_TOKENS,
            prompt_param="prompt",
        ),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if echo else None,
    )
    generation = start_generation(request, context, text, body, prompts=prompts, sampling=sampling, echo=echo)
    form = _TextFormat(context.model_name, text.tokenizer, body)
    return await answer(request, context, generation, form, stream=bool(body.stream), headers=headers)


class _TextFormat:
    """Writes one text completion; its chunks are completions of one choice, with one id and time."""

    def __init__(self, model: str, tokenizer: Tokenizer, body: CompletionRequest) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._tokenizer = tokenizer
        self._has_logprobs = body.logprobs is not None
        self._include_usage = body.include_usage

    async def collect(self, generation: Generation) -> TextCompletion:
        choices = [TextChoice(index, "") for index in range(generation.num_choices)]
        texts: list[list[str]] = [[] for _ in choices]
        tokens: list[list[ScoredToken]] = [[] for _ in choices]
        async for delta in generation:
            texts[delta.index].append(delta.text)
            tokens[delta.index] += delta.tokens
            if delta.finish is not None:
                choices[delta.index].finish_reason = delta.finish.reason
                choices[delta.index].stop_reason = delta.finish.stop_reason
        for choice in choices:
            choice.text = "".join(texts[choice.index])
            choice.logprobs = self._logprobs(tokens[choice.index])
        return TextCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=generation.usage()
        )

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        async for delta in generation:
            if delta.text or delta.tokens:
                yield self._chunk([TextChoice(delta.index, delta.text, self._logprobs(delta.tokens))])
            if (finish := delta.finish) is not None:
                yield self._chunk([TextChoice(delta.index, "", None, finish.reason, finish.stop_reason)])
        if self._include_usage:
            yield self._chunk([], generation.usage())

    def _chunk(self, choices: list[TextChoice], usage: Usage | None = None) -> bytes:
        return frame(
            TextCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=choices,
                usage=usage if self._include_usage else UNSET,
            )
        )

    def _logprobs(self, tokens: list[ScoredToken]) -> TextLogprobs | None:
        return text_logprobs(tokens, self._tokenizer) if self._has_logprobs else None
