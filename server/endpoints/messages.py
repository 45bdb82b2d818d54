"""POST /v1/messages and /v1/messages/count_tokens, for Anthropic's clients."""

from dataclasses import replace
from functools import partial

import msgspec

from server.chat.request import ChatRequest
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import FinishedWork, GenerationWork
from server.generation.params.chat import chat_params, check_chat
from server.generation.params.prompts import chat_prompt
from server.openapi.operation import EVENTS, JSON
from server.protocols.messages.answer import MessagesFormatter
from server.protocols.messages.errors import anthropic_words, messages_loading_error
from server.protocols.messages.request import translate_message
from server.schemas.messages import MessagesPrompt, MessagesRequest
from server.schemas.messages_answers import Event, MessageAnswer
from server.schemas.parameters import ignored_header
from server.schemas.plain_answers import InputTokens
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE
from server.text_model import TextModel

_MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


async def _check(body: MessagesPrompt, request: EndpointRequest) -> None:
    """Raise InvalidRequest for an invalid chat. Checks that need the chat template are skipped if the model was never
    loaded."""
    model = request.model
    chat, _ = await _translated(body, model, None if model.info is None else await model.text_model())
    with anthropic_words():
        check_chat(chat, model)


async def _prepare(body: MessagesRequest, request: EndpointRequest) -> GenerationWork:
    model = request.model
    async with request.preparing():
        chat, ignored = await _translated(body, model, await model.text_model())
        with anthropic_words():
            params = await chat_params(chat, model, request.arrival_s)
    room = params.sampling.max_tokens  # the rest of the context, since the chat has no limit of its own
    sampling = msgspec.structs.replace(params.sampling, max_tokens=min(room, body.max_tokens))
    params = replace(params, sampling=sampling)
    formatter = MessagesFormatter(
        model.name,
        request.id,
        is_cut_to_context=room < body.max_tokens,
        omits_thoughts=body.thinking is not None and body.thinking.display == "omitted",
    )
    ignored += [chat.paths[path] for path in params.ignored]
    return GenerationWork(model, params, formatter, ignored_header(ignored), is_stream=bool(body.stream))


async def _prepare_count(body: MessagesPrompt, request: EndpointRequest) -> FinishedWork:
    model = request.model
    model.check_admission()
    text_model = await model.text_model()
    chat, ignored = await _translated(body, model, text_model)
    with chat.paths.in_errors():
        counted = await chat_prompt(chat.chat, chat.options, text_model, model.client.info)
    ignored += [chat.paths[path] for path in counted.source.ignored]
    return FinishedWork(InputTokens(len(counted.prompt.ids)), ignored_header(ignored))


async def _translated(
    body: MessagesPrompt, model: ServedModel, text_model: TextModel | None
) -> tuple[ChatRequest, list[str]]:
    template = None if text_model is None else text_model.chat
    work = partial(translate_message, body, template, strict=model.config.strict_parameters)
    return await model.workers.run_unless_short(work, size=ITEM_SIZE * len(body.messages))


MESSAGES = Endpoint(
    path="/v1/messages",
    name="create_message",
    summary="Answer a conversation as Anthropic's API does, as a whole or as a stream.",
    tag="Anthropic's Messages",
    bodies=(MessagesRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: MessageAnswer, EVENTS: Event},
    example={"model": "MODEL", "max_tokens": 64, "messages": _MESSAGES},
    loading_error=messages_loading_error,
)
COUNT_TOKENS = Endpoint(
    path="/v1/messages/count_tokens",
    name="count_tokens",
    summary="Count the tokens that a message's prompt would have.",
    tag="Anthropic's Messages",
    bodies=(MessagesPrompt,),
    capability=Capability.TOKENIZES,
    check=_check,
    prepare=_prepare_count,
    answers={JSON: InputTokens},
    example={"model": "MODEL", "messages": _MESSAGES},
)
ENDPOINTS = (MESSAGES, COUNT_TOKENS)
