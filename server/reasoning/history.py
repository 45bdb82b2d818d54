"""Thoughts of earlier answers, moved to the message field that the chat template reads."""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.reasoning.probe import THOUGHT_FIELDS, shown_thoughts
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.message_content import text_of


def find_thought_field(template: ChatTemplate) -> str | None:
    """Return the field of an assistant's message from which the template reads its thought, or None.

    A template without such a field renders no earlier thoughts, since its model was trained on answers only.
    """
    return next((field for field in THOUGHT_FIELDS if any(shown_thoughts(template, (field,)))), None)


def with_thought_in(message: Mapping[str, Any], field: str | None) -> dict[str, Any]:
    """Return a copy of `message` whose thought is moved to `field`, from whichever field it is in; removed if None.

    Raises InvalidRequest for a thought that is not a text, and for fields with different thoughts.
    """
    if message.get("role") != "assistant":
        return dict(message)
    plain = {name: value for name, value in message.items() if name not in THOUGHT_FIELDS}
    thought = _thought(message)
    if thought is None or field is None:
        return plain
    if field == "thinking" and plain.get("tool_calls") and plain.get("content"):
        # gpt-oss's template accepts only one of the two, as the thought before a call.
        return {**plain, field: f"{thought}\n{text_of(plain['content'])}", "content": ""}
    return {**plain, field: thought}


def _thought(message: Mapping[str, Any]) -> str | None:
    given = {name: message[name] for name in THOUGHT_FIELDS if message.get(name) not in (None, "")}
    for name, value in given.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"the {name} of a message must be a string", param="messages")
    if len(set(given.values())) > 1:
        names = " and ".join(given)
        raise InvalidRequest(f"a message has {names} that differ; send one of them", param="messages")
    return next(iter(given.values()), None)
