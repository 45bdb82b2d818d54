"""render_chat: renders a conversation to the text of a prompt, with the model's chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.chat.content import ChatMessage, template_message
from server.chat.request import Chat
from server.chat.tools import ChatTools, chat_tools, tools_in_format
from server.reasoning.effort import ReasoningEffort
from server.reasoning.history import with_thought_in
from server.schemas.chat import TemplateOptions
from server.text.chat_templates.chat_template import RenderedChat
from server.text_model import ChatModel
from server.tools.history import GENERIC, template_chat


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A rendered prompt and its tools. ignored: paths of request fields that the template or tool-call format ignores.

    is_generic: whether the template does not support tools, so that the server's own instructions describe them.
    """

    rendered: RenderedChat
    tools: ChatTools | None
    ignored: list[str]
    is_generic: bool


def render_chat(chat: Chat, options: TemplateOptions, model: ChatModel) -> RenderedPrompt:
    """Render the conversation. The chat template may run up to its time limit. Raises InvalidRequest for invalid tools
    or tool calls, and if the template refuses the conversation."""
    tools = chat_tools(chat.tools)
    definitions = [] if tools is None else tools.definitions
    messages = template_messages(chat.messages, model)
    written = template_chat(model.tool_format, messages, definitions, has_system_role=model.has_system_role)
    effort, ignored = _effort(options, model)
    rendered = model.template.render(
        written.messages,
        tools=written.tools,
        add_generation_prompt=options.opens_answer,
        continue_final_message=bool(options.continue_final_message),
        kwargs={**effort, **(options.chat_template_kwargs or {})},
    )
    if tools is not None:
        tools = tools_in_format(tools, model.tool_format)
        ignored = [*tools.ignored, *ignored]
    is_generic = tools is not None and model.tool_format.name == GENERIC.name
    return RenderedPrompt(rendered, tools, ignored, is_generic)


def template_messages(messages: Sequence[ChatMessage], model: ChatModel) -> list[dict[str, Any]]:
    """Return the messages for `template_chat`, with reasoning in the field that the template reads. Raises
    InvalidRequest if a message's reasoning is not a text."""
    return [with_thought_in(template_message(message), model.thought_field) for message in messages]


def _effort(options: TemplateOptions, model: ChatModel) -> tuple[Mapping[str, Any], list[str]]:
    if options.reasoning_effort is None:
        return {}, []
    kwargs, is_honored = model.effort.kwargs(ReasoningEffort(options.reasoning_effort))
    return kwargs, [] if is_honored else ["reasoning_effort"]
