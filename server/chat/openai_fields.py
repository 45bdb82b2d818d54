"""Translation of OpenAI's chat completion requests to Chat and ChatRequest."""

from collections.abc import Sequence

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage, EarlierCall, TextPart
from server.chat.request import Chat, ChatRequest
from server.chat.tools import OfferedTool, ToolChoice, ToolOffer
from server.schemas.chat import ChatCompletionRequest, ChatContent, Message, ToolFields
from server.schemas.tools import AllowedToolsChoice, FunctionDefinition, FunctionName, MessageToolCall, NamedTool


def request_of(body: ChatCompletionRequest) -> ChatRequest:
    """Return the body as a ChatRequest. Raises InvalidRequest for fields that conflict."""
    return ChatRequest(chat_of(body), body, extra=body.extra, passed_on=body.passed_on)


def chat_of(fields: ChatContent) -> Chat:
    """Return messages and tools as a Chat. Raises InvalidRequest for `tools` together with the legacy `functions`."""
    return Chat([_message(message) for message in fields.messages], offered_tools(fields))


def _message(given: Message) -> ChatMessage:
    calls = given.tool_calls or []
    if given.function_call is not None:
        calls = [*calls, MessageToolCall(function=given.function_call)]
    return ChatMessage(
        role="tool" if given.role == "function" else given.role,
        parts=[TextPart(part.text) for part in given.content or []],
        calls=[EarlierCall(call.function.name, call.function.arguments, call.id) for call in calls],
        tool_call_id=given.tool_call_id,
        fields={name: value for name, value in (given.model_extra or {}).items() if value is not None},
    )


def offered_tools(fields: ToolFields) -> ToolOffer:
    if fields.tools and fields.functions:
        raise InvalidRequest("functions is the old name of tools, and both are given; give one", param="functions")
    if fields.function_call is not None and fields.tool_choice is not None:
        raise InvalidRequest(
            "function_call is the old name of tool_choice, and both are given; give one", param="function_call"
        )
    functions: Sequence[FunctionDefinition] = fields.functions or [tool.function for tool in fields.tools or []]
    return ToolOffer(
        definitions=[_definition(function) for function in functions],
        choice=_choice(fields),
        is_parallel=fields.parallel_tool_calls is not False,
        is_legacy=bool(fields.functions),
    )


def _definition(given: FunctionDefinition) -> OfferedTool:
    return OfferedTool(given.name, given.description, given.parameters, given.strict, fields=given.extra)


def _choice(fields: ToolFields) -> ToolChoice:
    path = "tool_choice" if fields.function_call is None else "function_call"
    match fields.tool_choice if fields.function_call is None else fields.function_call:
        case NamedTool(function=function):
            return ToolChoice("required", (function.name,), is_single=True, path=path)
        case FunctionName(name=name):
            return ToolChoice("required", (name,), is_single=True, path=path)
        case AllowedToolsChoice(allowed_tools=allowed):
            return ToolChoice(allowed.mode, tuple(tool.function.name for tool in allowed.tools), path=path)
        case None:
            return ToolChoice(path=path)
        case mode:
            return ToolChoice(mode, path=path)
