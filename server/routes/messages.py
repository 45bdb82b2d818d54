"""POST /v1/messages and /v1/messages/count_tokens, for Anthropic's clients."""

from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from server.generation.chat_params import chat_params
from server.generation.early_checks import check_chat
from server.generation.generation import Generation
from server.generation.prompts import chat_prompt
from server.http.answer import answer
from server.http.body import json_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model
from server.http.preparing import prepared
from server.protocols.field_names import client_names
from server.protocols.messages.answer import MessagesFormatter
from server.protocols.messages.errors import anthropic_words
from server.protocols.messages.request import Translated, translate
from server.schemas.chat import ChatCompletionRequest
from server.schemas.messages import MessagesPrompt, MessagesRequest
from server.schemas.parameters import ignored_header
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE
from server.text_model import TextModel

router = APIRouter(tags=["Anthropic's Messages"])


async def _check(_request: Request, body: MessagesPrompt, model: ServedModel) -> None:
    """Of one that was never loaded, only what its template says nothing about."""
    translated, chat = await _translation(body, model, None if model.info is None else await model.text_model())
    with client_names(translated.names), anthropic_words():
        check_chat(chat, model)


@router.post("/v1/messages")
async def create_message(
    request: Request,
    body: Annotated[MessagesRequest, Depends(json_body(MessagesRequest))],
    model: Annotated[ServedModel, Depends(asked_model(MessagesRequest, _check))],
) -> Response:
    """Answer a conversation as Anthropic's API does, as a whole or as a stream."""
    translated, chat = await _translated(body, model)
    with client_names(translated.names), anthropic_words():
        params = await prepared(request, model, chat_params(chat, model, request.state.arrival_s))
    room = params.sampling.max_tokens  # all that fits: the chat has no limit of its own
    sampling = msgspec.structs.replace(params.sampling, max_tokens=min(room, body.max_tokens))
    params = replace(params, sampling=sampling)
    formatter = MessagesFormatter(
        model.name,
        request.state.request_id,
        is_cut_to_context=room < body.max_tokens,
        omits_thoughts=body.thinking is not None and body.thinking.display == "omitted",
    )
    headers = {**params.headers, **ignored_header(translated.ignored_with(params.ignored))}
    return await answer(request, Generation(model, params), formatter, stream=bool(body.stream), headers=headers)


@router.post("/v1/messages/count_tokens")
async def count_tokens(
    request: Request,
    body: Annotated[MessagesPrompt, Depends(json_body(MessagesPrompt))],
    model: Annotated[ServedModel, Depends(asked_model(MessagesPrompt, _check))],
) -> JSONResponse:
    """Count the tokens that a message's prompt would have."""
    translated, chat = await _translated(body, model)
    with client_names(translated.names):
        prompt = chat_prompt(chat, await model.text_model(), model.client.info, is_counted=True)
        prepared = await until_disconnect(prompt, request.receive)
    headers = ignored_header(translated.ignored_with(prepared.plan.ignored))
    return JSONResponse({"input_tokens": len(prepared.prompt.ids)}, headers=headers)


async def _translated(body: MessagesPrompt, model: ServedModel) -> tuple[Translated, ChatCompletionRequest]:
    """Raises EngineUnavailable or InvalidRequest."""
    model.check_admission()
    return await _translation(body, model, await model.text_model())


async def _translation(
    body: MessagesPrompt, model: ServedModel, text_model: TextModel | None
) -> tuple[Translated, ChatCompletionRequest]:
    def work() -> tuple[Translated, ChatCompletionRequest]:
        template = None if text_model is None else text_model.chat
        translated = translate(body, template, strict=model.config.strict_parameters)
        return translated, translated.chat()

    return await model.workers.run_unless_short(work, size=ITEM_SIZE * len(body.messages))
