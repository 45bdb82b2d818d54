"""translate: a Messages request as the chat that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.protocols.field_names import client_names, client_path
from server.protocols.messages.history import chat_messages
from server.reasoning.probe import SWITCHES
from server.schemas.base import quote, validate
from server.schemas.chat import ChatCompletionRequest
from server.schemas.messages import DefinedTool, MessagesPrompt, MessagesRequest, OutputFormat
from server.schemas.parameters import MESSAGES_PARAMETERS, ignored_parameters
from server.text_model import ChatModel

_SAME = ("model", "temperature", "top_p", "top_k", "stream")


@dataclass(slots=True)
class Translated:
    """A chat's fields as they come together, what the client calls them, and the paths of what is not honored."""

    fields: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, *, called: str) -> None:
        self.fields[name] = value
        self.names[name] = called

    def chat(self) -> ChatCompletionRequest:
        """Raises InvalidRequest in the client's words."""
        with client_names(self.names):
            return validate(ChatCompletionRequest, self.fields)

    def ignored_with(self, chat_paths: list[str]) -> list[str]:
        """All paths that are not honored, those of the chat's fields as the client calls them."""
        return [*self.ignored, *(client_path(self.names, path) for path in chat_paths)]


def translate(body: MessagesPrompt, chat: ChatModel | None, *, strict: bool) -> Translated:
    """The chat without a limit of its answer. chat: of the model; None where it cannot hold one, which the chat's own
    check refuses. Raises InvalidRequest."""
    if body.thread is not None:
        raise InvalidRequest(
            "thread is not supported: this server stores no threads; leave it out, and send all messages",
            param="thread",
            code="thread_unsupported_request",  # at which Anthropic's clients do so by themselves
        )
    translated = Translated(ignored=ignored_parameters(body.extra, strict=strict, table=MESSAGES_PARAMETERS))
    messages, left_out = chat_messages(body, takes_late_system=chat is not None and chat.takes_late_system)
    translated.ignored += left_out
    translated.fields["messages"] = messages
    if messages and messages[-1]["role"] == "assistant":  # the answer goes on where it ends
        translated.fields["continue_final_message"] = True
    for name in _SAME:
        if (value := getattr(body, name, None)) is not None:
            translated.fields[name] = value
    if isinstance(body, MessagesRequest) and body.stop_sequences:
        translated.set("stop", body.stop_sequences, called="stop_sequences")
    _tools(body, translated)
    _output_format(body, translated)
    _thinking(body, chat, translated)
    return translated


def _tools(body: MessagesPrompt, translated: Translated) -> None:
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(body.tools or []):
        path = f"tools[{index}]"
        if isinstance(tool, DefinedTool):
            translated.ignored.append(path)
            continue
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.strict is not None:
            function["strict"] = tool.strict
        own = f"tools[{len(tools)}].function"
        translated.names |= {own: path, f"{own}.parameters": f"{path}.input_schema"}
        tools.append({"type": "function", "function": function})
    if tools:
        translated.fields["tools"] = tools
    choice = body.tool_choice
    if choice is None:
        return
    if choice.disable_parallel_tool_use:
        translated.set("parallel_tool_calls", False, called="tool_choice.disable_parallel_tool_use")
    translated.set("tool_choice", _choice(body), called="tool_choice")


def _choice(body: MessagesPrompt) -> str | dict[str, Any]:
    assert body.tool_choice is not None
    kind, name = body.tool_choice.type, body.tool_choice.name
    if kind != "tool":
        return {"any": "required"}.get(kind, kind)
    if name is None:
        raise InvalidRequest("tool_choice.name is missing; name the tool", param="tool_choice.name")
    if any(isinstance(tool, DefinedTool) and tool.name == name for tool in body.tools or []):
        raise UnsupportedParameter(
            f"tool_choice names {quote(name)}, a tool of Anthropic's own, which this server does not have; name a "
            "custom tool",
            param="tool_choice.name",
        )
    return {"type": "function", "function": {"name": name}}


def _output_format(body: MessagesPrompt, translated: Translated) -> None:
    config_format = None if body.output_config is None else body.output_config.format
    given: Mapping[str, OutputFormat | None] = {
        "output_config.format": config_format,
        "output_format": body.output_format,
    }
    asked = {path: each for path, each in given.items() if each is not None}
    if len(asked) > 1:
        raise InvalidRequest(
            "output_format is the old name of output_config.format, and both are given; give one", param="output_format"
        )
    for path, each in asked.items():
        json_schema = {"name": "output", "schema": each.schema_}
        translated.set("response_format", {"type": "json_schema", "json_schema": json_schema}, called=path)
        translated.names["response_format.json_schema.schema"] = f"{path}.schema"


def _thinking(body: MessagesPrompt, chat: ChatModel | None, translated: Translated) -> None:
    """An effort and `thinking` as the template's variables. A model that does not think cannot be made to."""
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
