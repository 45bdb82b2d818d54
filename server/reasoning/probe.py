"""Trial renderings: short chats with a thought, from whose prompts a template's reasoning marks are detected."""

from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.text.chat_templates.chat_template import ChatTemplate

THOUGHT = "xthoughtx"
ANSWER = "xanswerx"
# Fields of a message's thought; templates read one of them.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
# The two names of the variable that turns thinking on and off
SWITCHES = ("enable_thinking", "thinking")

_THINKING_OR_DEFAULT: tuple[dict[str, bool], ...] = ({}, dict.fromkeys(SWITCHES, True))

_USER = {"role": "user", "content": "Hello"}
_TOOL_RESULT = {"role": "tool", "content": "4", "tool_call_id": "call00000", "name": "add"}


def shown_thoughts(template: ChatTemplate, fields: tuple[str, ...] = THOUGHT_FIELDS) -> Iterator[tuple[str, str]]:
    """Yield the prompt's text before and after the assistant's thought, for each trial chat whose prompt has the
    thought.

    fields: fields of the assistant's message to put the thought in.
    """
    thought = dict.fromkeys(fields, THOUGHT)
    for messages in _chats(thought):
        for kwargs in _THINKING_OR_DEFAULT:
            prompt = render_trial(template, messages, kwargs=kwargs, add_generation_prompt=False)
            before, found, after = (prompt or "").partition(THOUGHT)
            if found:
                yield before, after


def prompt_ends(template: ChatTemplate) -> Iterator[str]:
    """Yield generation prompts: with the template's default, with thinking turned on, and with thinking turned off."""
    for kwargs in (*_THINKING_OR_DEFAULT, dict.fromkeys(SWITCHES, False)):
        prompt = render_trial(template, [_USER], kwargs=kwargs)
        if prompt is not None:
            yield prompt


def render_trial(
    template: ChatTemplate,
    messages: list[dict[str, Any]] | None = None,
    *,
    kwargs: Mapping[str, Any],
    add_generation_prompt: bool = True,
) -> str | None:
    """Render a trial chat, by default of one user message; return None if the template refuses it."""
    try:
        return template.render(messages or [_USER], kwargs=kwargs, add_generation_prompt=add_generation_prompt).prompt
    except InvalidRequest:
        return None


def _chats(thought: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    yield [_USER, {"role": "assistant", "content": ANSWER, **thought}]
    # Many templates render a thought only between tool calls. Some of them read the arguments as an object, others as
    # JSON text.
    for arguments in ({"a": 2}, '{"a": 2}'):
        call = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": arguments}}
        yield [_USER, {"role": "assistant", "content": "", **thought, "tool_calls": [call]}, _TOOL_RESULT]
