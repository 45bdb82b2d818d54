"""response_params: a response's body as the chat that answers it, and what that asks of the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from server.generation.params.chat import chat_params, check_chat, check_chat_fields
from server.generation.params.generation_params import GenerationParams
from server.generation.params.prompts import chat_prompt
from server.protocols.responses.request import TranslatedResponse, translate
from server.protocols.responses.truncation import Attempt, T, within_context
from server.schemas.parameters import ignored_header
from server.schemas.response_items import InputItem
from server.schemas.responses import InputTokensRequest, PromptFields, ResponsesRequest
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE


@dataclass(frozen=True, slots=True)
class ResponseParams:
    """headers: of the HTTP response."""

    request: TranslatedResponse
    generation: GenerationParams
    headers: dict[str, str]


async def response_params(
    body: ResponsesRequest, items: Sequence[InputItem], model: ServedModel, arrival_s: float, *, num_stored: int = 0
) -> ResponseParams:
    """items: all that the model is shown, of which the first `num_stored` come from earlier responses.

    Raises as chat_params, in the client's names.
    """

    async def attempt(left_out: frozenset[int]) -> ResponseParams:
        request = await _translated(body, items, model, num_stored, left_out)
        params = await chat_params(request.chat, model, arrival_s)
        headers = {**params.headers, **_ignored(request, params.ignored)}
        return ResponseParams(request, params, headers)

    return await _fitted(body, items, attempt)


async def check_response(
    body: PromptFields, items: Sequence[InputItem], model: ServedModel, *, num_stored: int = 0
) -> None:
    """Raise InvalidRequest, in the client's names, for what can be refused without the model."""
    request = await _translated(body, items, model, num_stored)
    check_chat(request.chat, model)


async def num_input_tokens(
    body: InputTokensRequest, items: Sequence[InputItem], model: ServedModel, *, num_stored: int = 0
) -> tuple[int, dict[str, str]]:
    """The length of the prompt, and headers. Raises as response_params, but for a prompt that is too long."""
    request = await _translated(body, items, model, num_stored)
    with request.chat.paths.in_errors():
        ignored = check_chat_fields(request.chat, model)
        text_model = await model.text_model()
        chat = await chat_prompt(request.chat.chat, request.chat.options, text_model, model.client.info)
    return len(chat.prompt.ids), _ignored(request, [*ignored, *chat.ignored])


async def _translated(
    body: PromptFields,
    items: Sequence[InputItem],
    model: ServedModel,
    num_stored: int,
    left_out: frozenset[int] = frozenset(),
) -> TranslatedResponse:
    request = partial(translate, body, items, num_stored=num_stored, left_out=left_out)
    return await model.workers.run_unless_short(request, size=ITEM_SIZE * len(items))


async def _fitted(body: PromptFields, items: Sequence[InputItem], attempt: Attempt[T]) -> T:
    if body.truncation == "auto":
        return await within_context(items, attempt)
    return await attempt(frozenset())


def _ignored(request: TranslatedResponse, of_chat: Sequence[str]) -> dict[str, str]:
    """The header that lists what is not honored, in the client's names."""
    return ignored_header([*request.ignored, *(request.chat.paths[path] for path in of_chat)])
