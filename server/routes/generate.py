"""What the generation routes have in common: the checks before a prompt is looked at, and the answer's two forms."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
from fastapi import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.protocol import SamplingParams
from server.context import ServerContext, TextModel
from server.generation.choice import Prompt, TextOptions
from server.generation.generation import Generation, GenerationParams
from server.http.disconnect import until_disconnect
from server.http.sse import EventStream
from server.schemas.parameters import ignored_header, ignored_parameters
from server.schemas.sampling import GenerationRequest


class AnswerFormat(Protocol):
    """How one endpoint writes a generation."""

    async def collect(self, generation: Generation) -> Any:
        """The whole answer, once all choices have ended."""

    def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The stream's events, the first not before the generation's first delta."""


def check_request(body: GenerationRequest, context: ServerContext) -> dict[str, str]:
    """The response headers that tell what is not honored. Raises what the client must hear first."""
    context.check_admission()
    context.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    ignored = ignored_parameters(body.extra, strict=context.config.strict_parameters)
    if body.priority and not context.honors_priority:
        ignored.append("priority")
    return ignored_header(ignored)


def check_num_choices(body: GenerationRequest, num_prompts: int, context: ServerContext) -> None:
    """Raise InvalidRequest for more choices than an idle engine and an empty queue could take together."""
    n = body.num_choices
    limit = context.client.info.max_num_seqs + context.config.max_num_waiting
    if num_prompts * n <= limit:
        return
    asked = f"n is {n}" if num_prompts == 1 else f"prompt has {num_prompts} prompts"
    if num_prompts > 1 and n > 1:
        asked += f" with {n} choices each (n), {num_prompts * n} choices in all"
    raise InvalidRequest(
        f"{asked}; one request may have {limit} {'choice' if limit == 1 else 'choices'} "
        "(--max-num-seqs and --max-num-waiting together)",
        param="n" if num_prompts == 1 else "prompt",
    )


def start_generation(
    request: Request,
    context: ServerContext,
    text: TextModel,
    body: GenerationRequest,
    *,
    prompts: list[Prompt],
    sampling: SamplingParams,
    echo: bool = False,
    prediction_ids: list[int] | None = None,
) -> Generation:
    """The generation that `body` asks for; the engine hears of it when it is entered."""
    options = TextOptions(
        stop=tuple(body.stop or ()),
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        min_tokens=sampling.min_tokens,
        echo=echo,
        logprobs=sampling.logprobs is not None,
    )
    params = GenerationParams(
        prompts=prompts,
        sampling=sampling,
        options=options,
        n=body.num_choices,
        arrival_s=request.state.arrival_s,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        prediction_ids=prediction_ids or [],
    )
    return Generation(context, text.tokenizer, params)


async def answer(
    request: Request,
    context: ServerContext,
    generation: Generation,
    form: AnswerFormat,
    *,
    stream: bool,
    headers: dict[str, str],
) -> Response:
    """Run the generation and answer with all of it, or hand back a response that streams it."""
    if stream:
        return EventStream(
            generation,
            form.events,
            ping_interval_s=context.config.sse_ping_interval,
            request_id=request.state.request_id,
            headers=headers,
        )
    async with generation:
        completion = await until_disconnect(form.collect(generation), request.receive)
    return Response(msgspec.json.encode(completion), headers=headers, media_type="application/json")
