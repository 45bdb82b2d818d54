"""translate_response: turns the body of a Responses request into a chat request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from server.chat.request import Chat, ChatRequest, chat_request
from server.chat.tools import ToolOffer
from server.protocols.responses.items import messages_of_items
from server.protocols.responses.tools import CalledTool, chat_choice, tool_table
from server.schemas.response_items import InputItem
from server.schemas.responses import Includable, JsonSchemaFormat, PromptFields, ResponsesRequest, TextConfig

_LOGPROBS: Includable = "message.output_text.logprobs"
_HONORED_INCLUDES = (_LOGPROBS, "reasoning.encrypted_content")

_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}


@dataclass(frozen=True, slots=True)
class TranslatedResponse:
    """A Responses request as a chat request. called: the client's tools by the function names that the model sees.

    ignored: paths of ignored fields, with the client's names.
    """

    chat: ChatRequest
    called: Mapping[str, CalledTool]
    ignored: list[str]


def translate_response(
    body: PromptFields, items: Sequence[InputItem], *, num_stored: int = 0, left_out: frozenset[int] = frozenset()
) -> TranslatedResponse:
    """Translate a Responses request to a chat request.

    items: shown to the model, except those at the positions `left_out`. num_stored: how many of them come from earlier
    responses. Raises InvalidRequest and UnsupportedParameter with the client's names of fields.
    """
    messages, ignored = messages_of_items(
        items, num_stored=num_stored, left_out=left_out, instructions=body.instructions
    )
    table = tool_table(body)
    options = {**body.chat_fields, "response_format": _response_format(body.text), "reasoning_effort": _effort(body)}
    options["model"] = body.model
    if isinstance(body, ResponsesRequest):
        options |= _answer_fields(body)
    tools = ToolOffer(table.definitions, chat_choice(body), is_parallel=body.parallel_tool_calls is not False)
    if not messages:
        problem = "missing" if body.input is None else "without a message" if body.input else "empty"
        raise InvalidRequest(f"input is {problem}; a response needs input or instructions", param="input")
    given = {name: value for name, value in options.items() if value is not None}
    chat = chat_request(Chat(messages, tools), given, _NAMES)
    return TranslatedResponse(chat, table.called, [*ignored, *table.ignored, *_ignored(body)])


def _answer_fields(body: ResponsesRequest) -> dict[str, Any]:
    has_logprobs = body.includes(_LOGPROBS)
    if body.top_logprobs and not has_logprobs:
        raise InvalidRequest(f'top_logprobs needs include: ["{_LOGPROBS}"]', param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if body.resumable and body.background:
        raise InvalidRequest(
            "resumable and background are both true, and streams of background responses can always be resumed; "
            "leave out one of them",
            param="resumable",
        )
    return {
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": has_logprobs or None,
        "top_logprobs": body.top_logprobs if has_logprobs else None,
        "stream": body.stream,
        "resumable": body.resumable,
    }


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if not isinstance(text.format, JsonSchemaFormat):
        return {"type": text.format.type}
    wanted = {"name": text.format.name, "schema": text.format.schema_, "strict": text.format.strict}
    return {"type": "json_schema", "json_schema": wanted}


def _effort(body: PromptFields) -> str | None:
    effort = None if body.reasoning is None else body.reasoning.effort
    return "xhigh" if effort == "max" else effort  # templates that know either name take it


def _ignored(body: PromptFields) -> list[str]:
    """Return the paths of fields that are accepted and have no effect."""
    ignored = []
    if body.text is not None:
        ignored += [f"text.{name}" for name in body.text.extra]
        ignored += ["text.verbosity"] if body.text.verbosity is not None else []
    if body.reasoning is not None:
        given = {**body.reasoning.extra, "summary": body.reasoning.summary}
        given["generate_summary"] = body.reasoning.generate_summary
        ignored += [f"reasoning.{name}" for name, value in given.items() if value is not None]
    if isinstance(body, ResponsesRequest):
        ignored += [f"include[{i}]" for i, name in enumerate(body.include or []) if name not in _HONORED_INCLUDES]
        if body.stream_options is not None:
            ignored += [f"stream_options.{name}" for name in body.stream_options.extra]
    return ignored
