"""response_params: turns a Responses request into a chat request and GenerationParams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from server.generation.params.chat import chat_params, check_chat
from server.generation.params.checks import check_fields
from server.generation.params.generation_params import GenerationParams
from server.generation.params.prompts import chat_prompt
from server.protocols.responses.request import TranslatedResponse, translate_response
from server.protocols.responses.truncation import within_context
from server.schemas.parameters import ignored_header
from server.schemas.response_items import InputItem
from server.schemas.responses import InputTokensRequest, PromptFields, ResponsesRequest
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE


@dataclass(frozen=True, slots=True)
class ResponseParams:
    """A Responses request as a chat and as GenerationParams. headers: headers of the HTTP response."""

    request: TranslatedResponse
    generation: GenerationParams
    headers: dict[str, str]


async def response_params(
    body: ResponsesRequest, items: Sequence[InputItem], model: ServedModel, arrival_s: float, *, num_stored: int = 0
) -> ResponseParams:
    """Return the params of a Responses request.

    items: all items to show to the model. num_stored: how many of them come from earlier responses. Raises
    InvalidRequest with the client's names of fields, WaitTooLong, EngineUnavailable and AnswerTimeout.
    """

    async def attempt(left_out: frozenset[int]) -> ResponseParams:
        request = await _translated(body, items, model, num_stored, left_out)
        params = await chat_params(request.chat, model, arrival_s)
        headers = {**params.headers, **_ignored(request, params.ignored)}
        return ResponseParams(request, params, headers)

    return await (within_context(items, attempt) if body.truncation == "auto" else attempt(frozenset()))


async def check_response(
    body: PromptFields, items: Sequence[InputItem], model: ServedModel, *, num_stored: int = 0
) -> None:
    """Check the parts of a Responses request that need no engine. Raises InvalidRequest with the client's names."""
    request = await _translated(body, items, model, num_stored)
    check_chat(request.chat, model)


async def num_input_tokens(
    body: InputTokensRequest, items: Sequence[InputItem], model: ServedModel, *, num_stored: int = 0
) -> tuple[int, dict[str, str]]:
    """Return the number of prompt tokens, which may exceed the context, and the response's headers. Raises
    InvalidRequest with the client's names of fields, and EngineUnavailable."""
    request = await _translated(body, items, model, num_stored)
    with request.chat.paths.in_errors():
        chat = request.chat
        ignored = check_fields(chat.options, model, extra=chat.extra, passed_on=chat.passed_on)
        text_model = await model.text_model()
        counted = await chat_prompt(chat.chat, chat.options, text_model, model.client.info)
    return len(counted.prompt.ids), _ignored(request, [*ignored, *counted.source.ignored])


async def _translated(
    body: PromptFields,
    items: Sequence[InputItem],
    model: ServedModel,
    num_stored: int,
    left_out: frozenset[int] = frozenset(),
) -> TranslatedResponse:
    request = partial(translate_response, body, items, num_stored=num_stored, left_out=left_out)
    return await model.workers.run_unless_short(request, size=ITEM_SIZE * len(items))


def _ignored(request: TranslatedResponse, of_chat: Sequence[str]) -> dict[str, str]:
    """Return the response header that lists ignored fields by the client's names."""
    return ignored_header([*request.ignored, *(request.chat.paths[path] for path in of_chat)])
