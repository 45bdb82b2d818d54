"""translate_message: turns a Messages request into a chat request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.chat.content import ChatMessage
from server.chat.request import Chat, ChatRequest, chat_request
from server.chat.tools import OfferedTool, ToolChoice, ToolOffer, check_tool_name
from server.protocols.messages.history import messages_of_blocks
from server.reasoning.probe import SWITCHES
from server.schemas.base import quote
from server.schemas.messages import DefinedTool, MessagesPrompt, MessagesRequest, OutputFormat
from server.schemas.parameters import MESSAGES_PARAMETERS, ignored_parameters
from server.schemas.tools import MAX_TOOLS
from server.text_model import ChatModel

_SAME = ("model", "temperature", "top_p", "top_k", "stream")


@dataclass(slots=True)
class TranslatedMessage:
    """Parts of the chat request while they are collected, and the paths of ignored fields.

    names: maps the options' names, which are those of OpenAI's API, to the names of Anthropic's API.
    """

    messages: list[ChatMessage]
    options: dict[str, Any] = field(default_factory=dict)
    tools: ToolOffer = field(default_factory=ToolOffer)
    names: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, *, called: str) -> None:
        self.options[name] = value
        self.names[name] = called


def translate_message(body: MessagesPrompt, chat: ChatModel | None, *, strict: bool) -> tuple[ChatRequest, list[str]]:
    """Return the request as a chat request without max_tokens, and the paths of ignored fields.

    chat: the model's ChatModel. None if it is not known yet, or if the model has no chat template: such requests are
    refused later, when the prompt is made.

    Raises InvalidRequest with the client's names of fields.
    """
    if body.thread is not None:
        raise InvalidRequest(
            "thread is not supported: this server stores no threads; leave it out, and send all messages",
            param="thread",
            code="thread_unsupported_request",  # at this code, Anthropic's clients do so by themselves
        )
    ignored = ignored_parameters(body.extra, strict=strict, table=MESSAGES_PARAMETERS)
    messages, left_out = messages_of_blocks(body, takes_late_system=chat is not None and chat.takes_late_system)
    translated = TranslatedMessage(messages, ignored=[*ignored, *left_out])
    if messages and messages[-1].role == "assistant":  # the answer continues it
        translated.options["continue_final_message"] = True
    for name in _SAME:
        if (value := getattr(body, name, None)) is not None:
            translated.options[name] = value
    if isinstance(body, MessagesRequest) and body.stop_sequences:
        translated.set("stop", body.stop_sequences, called="stop_sequences")
    _tools(body, translated)
    _output_format(body, translated)
    _thinking(body, chat, translated)
    request = chat_request(Chat(messages, translated.tools), translated.options, translated.names)
    return request, translated.ignored


def _tools(body: MessagesPrompt, translated: TranslatedMessage) -> None:
    definitions: list[OfferedTool] = []
    for index, tool in enumerate(body.tools or []):
        path = f"tools[{index}]"
        if isinstance(tool, DefinedTool):
            translated.ignored.append(path)
            continue
        check_tool_name(tool.name, f"{path}.name")
        paths = {"": path, ".parameters": f"{path}.input_schema"}
        definitions.append(OfferedTool(tool.name, tool.description, tool.input_schema, tool.strict, paths=paths))
    if len(definitions) > MAX_TOOLS:
        raise InvalidRequest(f"tools has {len(definitions)} tools; it must have at most {MAX_TOOLS}", param="tools")
    choice = body.tool_choice
    is_parallel = choice is None or not choice.disable_parallel_tool_use
    translated.tools = ToolOffer(definitions, _choice(body), is_parallel=is_parallel)


def _choice(body: MessagesPrompt) -> ToolChoice:
    choice = body.tool_choice
    if choice is None:
        return ToolChoice()
    if choice.type != "tool":
        return ToolChoice("required" if choice.type == "any" else choice.type)
    if choice.name is None:
        raise InvalidRequest("tool_choice.name is missing; name the tool", param="tool_choice.name")
    if any(isinstance(tool, DefinedTool) and tool.name == choice.name for tool in body.tools or []):
        raise UnsupportedParameter(
            f"tool_choice names {quote(choice.name)}, a tool of Anthropic's own, which this server does not have; name "
            "a custom tool",
            param="tool_choice.name",
        )
    return ToolChoice("required", (choice.name,), is_single=True)


def _output_format(body: MessagesPrompt, translated: TranslatedMessage) -> None:
    config_format = None if body.output_config is None else body.output_config.format
    given: Mapping[str, OutputFormat | None] = {
        "output_config.format": config_format,
        "output_format": body.output_format,
    }
    wanted = {path: each for path, each in given.items() if each is not None}
    if len(wanted) > 1:
        raise InvalidRequest(
            "output_format is the old name of output_config.format, and both are given; give one", param="output_format"
        )
    for path, each in wanted.items():
        json_schema = {"name": "output", "schema": each.schema_}
        translated.set("response_format", {"type": "json_schema", "json_schema": json_schema}, called=path)
        translated.names["response_format.json_schema.schema"] = f"{path}.schema"


def _thinking(body: MessagesPrompt, chat: ChatModel | None, translated: TranslatedMessage) -> None:
    """Translate effort and `thinking` to options of the chat. `thinking` is ignored for a model that cannot think."""
    effort = None if body.output_config is None else body.output_config.effort
    if effort is not None:
        translated.set("reasoning_effort", "xhigh" if effort == "max" else effort, called="output_config.effort")
    thinking = body.thinking
    if thinking is None or chat is None:
        return
    if chat.reasoning is None:
        translated.ignored += [] if thinking.type == "disabled" else ["thinking"]
        return
    if thinking.type == "disabled":
        translated.ignored += [] if effort is None else ["output_config.effort"]
        translated.set("reasoning_effort", "none", called="thinking")
        return
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        raise InvalidRequest(
            "thinking.budget_tokens is missing; give it, or let the model decide with type adaptive",
            param="thinking.budget_tokens",
        )
    if switches := [name for name in chat.effort.names if name in SWITCHES]:
        translated.set("chat_template_kwargs", dict.fromkeys(switches, True), called="thinking")
    if thinking.budget_tokens is not None:
        translated.set("thinking_token_budget", thinking.budget_tokens, called="thinking.budget_tokens")
    translated.ignored += ["thinking.type"] if thinking.type == "between_tools" else []
    translated.ignored += ["thinking.display"] if thinking.display in ("summarized", "updates") else []
